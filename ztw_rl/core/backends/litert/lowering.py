"""From a PyTorch module to a LiteRT graph."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ztw_rl.core.backends.litert.arguments import UnsupportedError
from ztw_rl.core.backends.litert.graph import Graph
from ztw_rl.core.backends.litert.operators import OPERATORS
from ztw_rl.core.backends.litert.pointwise import same
from ztw_rl.core.backends.litert.values import Value, as_plain, reshaped
from ztw_rl.errors import UserError

REMEDY = "take the format onnx"
"""What runs a network that LiteRT cannot."""


def lowered(
    graph: Graph, module: nn.Module, example: Sequence[Tensor], inputs: Sequence[Value]
) -> list[Value]:
    """Add a module's operators to a graph.

    Args:
        graph: Which has the inputs.
        module: In eval mode.
        example: Tensors as it takes them, of a batch of one.
        inputs: The same as the graph has them.

    Returns:
        Its outputs.

    Raises:
        UserError: It does something that cannot be expressed; the layer is named.
    """
    with warnings.catch_warnings():
        # The exporter warns of its own internals.
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(module, tuple(example), strict=False)
            program = program.run_decompositions({})
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"LiteRT cannot run the network ({reason}); {REMEDY}") from None
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    fixed: Mapping[str, Any] = {**program.state_dict, **program.constants}
    values: dict[str, Any] = {}
    given = iter(inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            name = names.get(node.name) or signature.inputs_to_lifted_tensor_constants.get(
                node.name
            )
            values[node.name] = next(given) if name is None else fixed[name].detach()
        elif node.op == "output":
            return [_read(each, values) for each in node.args[0]]
        else:
            args, kwargs = _read(node.args, values), _read(node.kwargs, values)
            values[node.name] = _step(graph, node, args, kwargs)
            if len(node.users) > 1 and isinstance(values[node.name], Value):
                graph.settle(values[node.name].node)
    raise AssertionError("a program ends in its outputs")


def _step(graph: Graph, node: Any, args: Any, kwargs: Any) -> Any:
    if "_assert_" in str(node.target):
        return None
    if not _computed([*args, *kwargs.values()]):
        return node.target(*args, **kwargs)
    try:
        if node.target not in OPERATORS:
            raise UnsupportedError(f"the operator {node.target}")
        run = OPERATORS[node.target]
        dtype = getattr(node.meta.get("val"), "dtype", torch.float32)
        if dtype != torch.float32 and not (dtype == torch.uint8 and run is same):
            raise UnsupportedError(f"numbers of the type {dtype}")
        return run(graph, *args, **kwargs)
    except UnsupportedError as error:
        what = str(error)
    except Exception as error:  # What was not thought of.
        what = f"the operator {node.target} ({error!r})"
    raise UserError(f"LiteRT cannot run {what}, in {_layer(node)}; {REMEDY}")


def _computed(args: Sequence[Any]) -> bool:
    """Whether anything among arguments is not fixed."""
    return any(
        isinstance(each, Value) or (isinstance(each, list | tuple) and _computed(each))
        for each in args
    )


def _read(given: Any, values: Mapping[str, Any]) -> Any:
    """Arguments with values for names."""
    return torch.fx.node.map_arg(given, lambda node: values[node.name])


def _layer(node: Any) -> str:
    """The name of the module that a step belongs to."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return f"layer {stack[-1][0] or 'model'}" if stack else "the model"


def answer(graph: Graph, x: Value) -> Value:
    """An output for whoever runs the graph: floats in PyTorch's order and dimensions."""
    x = as_plain(graph, x)
    return replace(x, node=reshaped(graph, x.node, x.shape))
