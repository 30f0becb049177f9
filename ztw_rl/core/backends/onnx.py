"""Export to ONNX, one graph per exit, and a backend that runs them."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ztw_rl import deploy, deployed
from ztw_rl.core.backends.sessions import SessionsBackend, head_is_ensembled, interface
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.errors import UserError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_packages() -> None:
    """Find out whether the extra ``onnx`` is installed.

    Raises:
        UserError: A package is missing.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is missing; pip install 'ztw-rl[onnx]'")


class _Chain(nn.Module):
    """All segments in a row, with everything that passes between them as outputs.

    Args:
        model: In eval mode.
    """

    def __init__(self, model: EarlyExitModel) -> None:
        super().__init__()
        self.segments = nn.ModuleList(model.answering())
        self.head = model.head
        self._n_outputs = len(deployed.outputs_by(model.rule))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Outputs of the segments (see ``deployed.outputs_by``), then the backbone."""
        outputs: list[Tensor] = []
        logits: Tensor | None = None
        for segment in self.segments:
            x, logits, *judged = segment(x, logits)
            outputs += [x, logits, *judged][: self._n_outputs]
        last = outputs[-self._n_outputs :]
        return [*outputs[: -self._n_outputs], *last[2:4], self.head(x)]


@dataclass(frozen=True)
class Stage:
    """An exit's part of a model's ONNX graph, for any batch size."""

    model: Any
    """An ``onnx.ModelProto``; stages that compute the same share its name."""
    reads: tuple[str, ...]
    """What it takes: the network's input, or features and logits of the stage before."""
    gives: Mapping[str, str]
    """Its outputs, by what ``deployed.outputs_by`` calls them."""

    def serialized(self) -> bytes:
        """Alone, with the names that ``deployed.DeployedModel`` reads."""
        inputs = dict(zip(self.reads, ("features", "logits"), strict=False))
        return _renamed(self.model, inputs | {own: name for name, own in self.gives.items()})


@dataclass(frozen=True)
class Graphs:
    """A model's ONNX graph, cut at its exits."""

    stages: tuple[Stage, ...]
    """One per exit."""
    backbone: bytes
    """From ``x`` to ``logits``, (B, C), without any IC."""

    @property
    def exits(self) -> tuple[bytes, ...]:
        """One serialised graph per exit; see ``deployed.DeployedModel`` for inputs and outputs."""
        return tuple(stage.serialized() for stage in self.stages)


@torch.no_grad()
def export_graphs(model: EarlyExitModel, x: Tensor) -> Graphs:
    """Export a model once and cut it at its exits.

    Args:
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.

    Raises:
        UserError: A package is missing.
    """
    require_packages()
    import onnx
    from onnxscript import opset18

    def lerp(start: Any, end: Any, weight: Any) -> Any:
        """Three operations; the exporter's own has seven, to be exact at both ends."""
        return opset18.Add(start, opset18.Mul(opset18.Sub(end, start), weight))

    last = model.n_exits - 1
    outputs = deployed.outputs_by(model.rule)
    names = [f"{name}_{m}" for m in range(last) for name in outputs]
    names += [f"{name}_{last}" for name in deployed.LAST_OUTPUTS]
    with warnings.catch_warnings():
        # The exporter warns of its own internals.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Chain(model),
            # A batch of one would be taken for a constant.
            (torch.cat([x, x]),),
            dynamo=True,
            verbose=False,
            input_names=("x",),
            output_names=[*names, "backbone"],
            dynamic_shapes=({0: "batch"},),
            custom_translation_table={torch.ops.aten.lerp.Tensor: lerp},
        )
    assert program is not None
    # A property that serialises anew at every access.
    whole = program.model_proto
    _fold_divisions(whole.graph)
    batch_sizes = [node for node in whole.graph.node if _is_batch_size(node)]
    extractor = onnx.utils.Extractor(whole)
    state = ("next_features", "next_logits")
    stages = []
    for m in range(model.n_exits):
        own = outputs if m < last else deployed.LAST_OUTPUTS
        reads = ["x"] if m == 0 else [f"{name}_{m - 1}" for name in state]
        if m == last and last and not head_is_ensembled(model):
            del reads[1]
        wanted = [f"{name}_{m}" for name in own]
        # The exporter counts the network's input wherever it needs the size of the batch, far
        # behind that too. What an exit reads has as many rows.
        for node in batch_sizes:
            node.input[0] = reads[0]
        gives = dict(zip(own, wanted, strict=True))
        stages.append(Stage(extractor.extract_model(reads, wanted), tuple(reads), gives))
    for node in batch_sizes:
        node.input[0] = "x"
    backbone = extractor.extract_model(["x"], ["backbone"])
    return Graphs(tuple(stages), _renamed(backbone, {"backbone": "logits"}))


def _is_batch_size(node: Any) -> bool:
    """Whether a node gives the first dimension of the network's input, and that alone."""
    part = {attribute.name: attribute.i for attribute in node.attribute}
    return bool(
        node.op_type == "Shape" and list(node.input) == ["x"] and part == {"start": 0, "end": 1}
    )


def _fold_divisions(graph: Any) -> None:
    """Divide a convolution's weights instead of its input, such as pixels by 255."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    for node in [n for n in graph.node if n.op_type == "Div" and n.input[1] in constants]:
        readers = [n for n in graph.node if node.output[0] in n.input]
        divisor = numpy_helper.to_array(constants[node.input[1]])
        shared = {name for n in graph.node if n not in readers for name in n.input}
        if any(n.op_type != "Conv" or n.input[0] != node.output[0] for n in readers):
            continue
        weights = [n.input[1] for n in readers]
        if (
            divisor.ndim
            or node.output[0] in outputs
            or any(w not in constants or w in shared or weights.count(w) > 1 for w in weights)
        ):
            continue
        for reader in readers:
            weight = constants[reader.input[1]]
            scaled = numpy_helper.to_array(weight) / divisor
            weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))
            reader.input[0] = node.input[0]
        graph.node.remove(node)


def _renamed(model: Any, names: Mapping[str, str]) -> bytes:
    """A graph with other names for some of its tensors, serialised."""
    model = copy.deepcopy(model)
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
    serialised: bytes = model.SerializeToString()
    return serialised


def onnx(model: EarlyExitModel, x: Tensor, n_threads: int = 1) -> SessionsBackend:
    """Export a model and run it at once, without a file.

    Args:
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.
        n_threads: For the work inside a layer.

    Raises:
        UserError: A package is missing.
    """
    graphs = export_graphs(model, x)
    sessions = [deploy.open_session(graph, n_threads, "the model") for graph in graphs.exits]
    return SessionsBackend(
        "ONNX Runtime",
        deployed.DeployedModel(sessions, interface(model, x)),
        deploy.open_session(graphs.backbone, n_threads, "the model"),
    )
