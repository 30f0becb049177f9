"""LiteRT's files, from graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ztw_rl.core.backends.litert.graph import Array, Graph, Node, Operator
from ztw_rl.tflite import IDENTIFIER, sealed

SCHEMA_VERSION = 3
_TYPES = {
    "float32": "FLOAT32",
    "uint8": "UINT8",
    "int8": "INT8",
    "int32": "INT32",
    "bool": "BOOL",
}


class Part(NamedTuple):
    """A graph of a file, and what it gives."""

    graph: Graph
    outputs: Mapping[str, Node]
    """By the names that they get."""


def packed(parts: Sequence[Part], metadata: Mapping[bytes, str] | None = None) -> bytes:
    """A file.

    Args:
        parts: Its graphs, of which the first is run.
        metadata: Texts by their names.
    """
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    model = _Packing().model(parts, metadata or {})
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return sealed(bytes(builder.Output()))


class _Packing:
    """A file in the making."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema: Any = schema
        # The first buffer is empty, for all that is computed.
        self._buffers = [schema.BufferT()]
        self._codes: dict[str, int] = {}

    def model(self, parts: Sequence[Part], metadata: Mapping[bytes, str]) -> Any:
        """The whole."""
        model = self._schema.ModelT()
        model.version = SCHEMA_VERSION
        model.subgraphs = [self._subgraph(*part) for part in parts]
        model.operatorCodes = [self._code(name) for name in self._codes]
        model.metadata = [self._described(*item) for item in metadata.items()]
        model.buffers = self._buffers
        return model

    def _described(self, name: bytes, text: str) -> Any:
        entry = self._schema.MetadataT()
        entry.name = name
        entry.buffer = self._buffer(text.encode())
        return entry

    def _subgraph(self, graph: Graph, outputs: Mapping[str, Node]) -> Any:
        subgraph = self._schema.SubGraphT()
        steps = needed(graph, outputs.values())
        subgraph.operators = [self._operator(graph, step) for step in steps]
        names = graph.names | {node.index: name for name, node in outputs.items()}
        subgraph.tensors = [
            self._tensor(node, names, graph.constants.get(node.index), graph.scales.get(node.index))
            for node in graph.tensors
        ]
        subgraph.inputs = [node.index for node in graph.inputs]
        subgraph.outputs = [node.index for node in outputs.values()]
        return subgraph

    def _operator(self, graph: Graph, step: Operator) -> Any:
        schema = self._schema
        inputs = list(step.inputs)
        if step.weights is not None:
            assert step.bias is not None
            dtype = np.float32 if step.scales is None else np.int8
            weights = np.ascontiguousarray(step.weights, dtype)
            inputs.append(graph.constant(weights, step.scales))
            inputs.append(graph.constant(np.ascontiguousarray(step.bias, np.float32)))
        made = schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault(step.code, len(self._codes))
        made.inputs = [node.index for node in inputs]
        made.outputs = [node.index for node in (step.output, *step.more)]
        kind = OPTIONS.get(step.code)
        if kind is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            made.builtinOptions = getattr(schema, f"{kind}T")()
            options = dict(step.options)
            if "fused" in options:
                fused = getattr(schema.ActivationFunctionType, options.pop("fused"))
                options["fusedActivationFunction"] = fused
            if step.code == "ARG_MAX":
                options["outputType"] = getattr(schema.TensorType, _TYPES[step.output.dtype])
            for name, value in options.items():
                setattr(made.builtinOptions, name, value)
        return made

    def _code(self, name: str) -> Any:
        code = self._schema.OperatorCodeT()
        number = getattr(self._schema.BuiltinOperator, name)
        code.builtinCode = number
        code.deprecatedBuiltinCode = min(number, 127)
        code.version = VERSIONS.get(name, 1)
        return code

    def _tensor(
        self, node: Node, names: Mapping[int, str], value: Array | None, scales: Array | None
    ) -> Any:
        schema = self._schema
        tensor = schema.TensorT()
        tensor.name = names.get(node.index, f"t{node.index}").encode()
        tensor.shape = list(node.shape)
        tensor.type = getattr(schema.TensorType, _TYPES[node.dtype])
        if value is not None:
            tensor.buffer = self._buffer(np.ascontiguousarray(value).tobytes())
        if node.dtype == "uint8":
            scales = np.ones(1)
        if scales is not None:
            quantisation = schema.QuantizationParametersT()
            quantisation.scale = np.asarray(scales, np.float32)
            quantisation.zeroPoint = np.zeros(len(scales), np.int64)
            tensor.quantization = quantisation
        return tensor

    def _buffer(self, content: bytes) -> int:
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self._buffers.append(buffer)
        return len(self._buffers) - 1


def needed(graph: Graph, outputs: Iterable[Node]) -> list[Operator]:
    """The operators that some tensors depend on, in order."""
    wanted = {node.index for node in outputs}
    found = []
    for step in reversed(graph.operators):
        if wanted & {node.index for node in (step.output, *step.more)}:
            found.append(step)
            wanted.update(node.index for node in step.inputs)
    return found[::-1]


OPTIONS = {
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "RESHAPE": "ReshapeOptions",
    "SOFTMAX": "SoftmaxOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "GATHER": "GatherOptions",
    "TOPK_V2": "TopKV2Options",
    "IF": "IfOptions",
    "ARG_MAX": "ArgMaxOptions",
}
"""What the schema calls the options of operators that have any."""
VERSIONS: dict[str, int] = {"FULLY_CONNECTED": 2, "DEQUANTIZE": 2, "TRANSPOSE": 4}
"""Of operators newer than their first version."""
