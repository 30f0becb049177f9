"""One ONNX file in which the control flow lives: any ONNX Runtime runs it, without code of ours.

Each exit's graph ends in an ``If``: one branch answers, the other is the next exit. So the rest of
the network never runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ztw_rl import deploy
from ztw_rl.core.backends.onnx import Stage, export_graphs
from ztw_rl.core.model import EarlyExitModel

OUTPUTS = ("exit", "confidence", "log_probs")
"""Beside the answer itself."""


def one_graph(model: EarlyExitModel, x: Tensor, noun: str, metadata: Mapping[str, Any]) -> bytes:
    """A model for single inputs as one serialised graph.

    Inputs are ``x``, (1, …), and ``thresholds``, (E−1,) float32. Outputs are the answer, (1,)
    int64; ``exit``, (1,) int64; ``confidence``, (1,); and ``log_probs``, (1, C).

    Args:
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.
        noun: What the answer is called: ``action`` or ``label``.
        metadata: Anything JSON.

    Raises:
        UserError: A package is missing.
    """
    graphs = export_graphs(model, x)
    import onnx
    from onnx import TensorProto, helper

    first = graphs.stages[0].model
    nodes = []
    bounds = "thresholds"
    if model.rule == "gate":
        # A signal is minus a regret.
        nodes.append(helper.make_node("Neg", ["thresholds"], ["bounds"]))
        bounds = "bounds"
    own, weights = _stage(graphs.stages, 0, bounds, {"thresholds", "bounds"})
    nodes += own
    nodes.append(helper.make_node("ArgMax", ["log_probs"], [noun], axis=1, keepdims=0))
    n_classes = model.backbone(x).shape[1]
    inputs = [
        _single(first.graph.input[0]),
        helper.make_tensor_value_info("thresholds", TensorProto.FLOAT, [model.n_exits - 1]),
    ]
    outputs = [
        helper.make_tensor_value_info(noun, TensorProto.INT64, [1]),
        helper.make_tensor_value_info("exit", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("confidence", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, [1, n_classes]),
    ]
    graph = helper.make_graph(nodes, "early_exit", inputs, outputs, weights)
    made = helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)
    made.functions.extend(first.functions)
    helper.set_model_props(made, {deploy.KEY: json.dumps(metadata, allow_nan=False)})
    onnx.checker.check_model(made)
    serialised: bytes = made.SerializeToString()
    return serialised


def _stage(
    stages: tuple[Stage, ...], m: int, bounds: str, known: set[str]
) -> tuple[list[Any], list[Any]]:
    """Exit m and all that follows it: nodes that give ``OUTPUTS``, and exit m's weights.

    ONNX Runtime lays out a layer's weights anew only where both are in the same graph.

    Args:
        stages: All exits.
        m: Which.
        bounds: Name of what signals must exceed.
        known: Names that are there before; branches see them.
    """
    from onnx import TensorProto, helper

    stage, is_last = stages[m], m == len(stages) - 1
    weights = [t for t in stage.model.graph.initializer if t.name not in known]
    nodes = [node for node in stage.model.graph.node if not set(node.output) <= known]
    known = known | {name for node in nodes for name in node.output} | {t.name for t in weights}
    number = helper.make_node(
        "Constant", [], [f"number_{m}"], value=helper.make_tensor("", TensorProto.INT64, [1], [m])
    )
    sources = {
        "exit": f"number_{m}",
        "confidence": stage.gives["confidence"],
        "log_probs": stage.gives["log_probs"],
    }

    def named(suffix: str) -> list[Any]:
        return [
            helper.make_node("Identity", [source], [name + suffix])
            for name, source in sources.items()
        ]

    if is_last:
        suffix = "" if m == 0 else f"_stays_{m - 1}"
        return [*nodes, number, *named(suffix)], weights
    signal = stage.gives.get("signal", stage.gives["confidence"])
    position = helper.make_tensor("", TensorProto.INT64, [1], [m])
    nodes += [
        helper.make_node("Constant", [], [f"position_{m}"], value=position),
        helper.make_node("Gather", [bounds, f"position_{m}"], [f"bound_{m}"]),
        helper.make_node("Greater", [signal, f"bound_{m}"], [f"leaves_{m}"]),
    ]
    known |= {f"position_{m}", f"bound_{m}", f"leaves_{m}"}
    leaving = helper.make_graph(
        [number, *named(f"_leaves_{m}")], f"exit_{m}", [], _values(f"_leaves_{m}")
    )
    following, theirs = _stage(stages, m + 1, bounds, known)
    staying = helper.make_graph(following, f"after_{m}", [], _values(f"_stays_{m}"), theirs)
    suffix = "" if m == 0 else f"_stays_{m - 1}"
    branch = helper.make_node(
        "If",
        [f"leaves_{m}"],
        [name + suffix for name in OUTPUTS],
        then_branch=leaving,
        else_branch=staying,
    )
    return [*nodes, branch], weights


def _values(suffix: str) -> list[Any]:
    """Outputs of a branch."""
    from onnx import TensorProto, helper

    types = dict.fromkeys(OUTPUTS, TensorProto.FLOAT) | {"exit": TensorProto.INT64}
    return [helper.make_tensor_value_info(f"{name}{suffix}", types[name], None) for name in OUTPUTS]


def _single(value: Any) -> Any:
    """An input of one sample instead of any number."""
    from onnx import helper

    kind = value.type.tensor_type
    shape = [1, *(dim.dim_value for dim in kind.shape.dim[1:])]
    return helper.make_tensor_value_info(value.name, kind.elem_type, shape)
