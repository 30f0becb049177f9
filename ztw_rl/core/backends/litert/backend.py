"""A model as one LiteRT file in which the control flow lives, and a backend that runs it.

Each exit's graph ends in an ``IF``: one branch answers, the other is the next exit. So the rest of
the network never runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ztw_rl import deploy, deployed, tflite
from ztw_rl.core.backends.backbone import Backbone
from ztw_rl.core.backends.litert.graph import Graph, Node
from ztw_rl.core.backends.litert.lowering import REMEDY, answer, lowered
from ztw_rl.core.backends.litert.packing import Part, packed
from ztw_rl.core.backends.litert.quantise import with_int8_weights
from ztw_rl.core.backends.litert.values import Value, given, input_like
from ztw_rl.core.backends.sessions import SessionsBackend, head_is_ensembled, interface
from ztw_rl.core.model import EarlyExitModel, SegmentFunction
from ztw_rl.errors import UserError
from ztw_rl.interpreters import Interpreters, require_package

N_CHECKED = 3
TOLERANCE = 1e-3
"""Of a log-probability, relative to the largest: rounding adds up in a deep network."""


@torch.no_grad()
def backbone_file(model: EarlyExitModel, x: Tensor) -> bytes:
    """The network without its ICs, from ``x`` to ``logits``, (B, C).

    Args:
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.

    Raises:
        UserError: A package is missing, or LiteRT cannot express a layer.
    """
    require_package()
    graph = Graph()
    (logits,) = lowered(graph, Backbone(model), [x], [input_like(graph, "x", x)])
    return packed([Part(graph, {"logits": answer(graph, logits).node})])


@torch.no_grad()
def one_file(
    model: EarlyExitModel,
    x: Tensor,
    noun: str,
    metadata: Mapping[str, Any],
    weights: deploy.Weights = "float32",
) -> bytes:
    """A model for single inputs as one file.

    Inputs are ``x``, (1, …), and ``thresholds``, (E−1,) float32; a network without ICs has no
    thresholds. Outputs are the answer, (1,) int32; ``exit``, (1,) int32; ``confidence``, (1,); and
    ``log_probs``, (1, C). ``tflite.exits_of`` makes a model of each exit.

    Args:
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.
        noun: What the answer is called: ``action`` or ``label``.
        metadata: Anything JSON.
        weights: Of wide layers; see ``quantise``.

    Raises:
        UserError: A package is missing, LiteRT cannot express a layer, or none is wide.
    """
    require_package()
    stages = _stages(model, x)
    n_bounds = model.n_exits - 1
    following, leaving = [], []
    for m, stage in enumerate(stages):
        graph = stage.graph
        if m == n_bounds:
            end = _answered(graph, m, stage.own["log_probs"], stage.own["confidence"])
        else:
            # The exits' graphs come first, then those that answer.
            end = _branch(stage, m, (model.n_exits + m, m + 1), model.rule == "gate")
            answering = Graph()
            _inputs(answering, stage, n_bounds)
            leaving.append(Part(answering, _answered(answering, m, *answering.inputs[-2:])))
        following.append(Part(graph, end))
    first = following[0]
    axis = first.graph.constant(np.array(1, np.int32))
    label = first.graph.add("ARG_MAX", [first.outputs["log_probs"], axis], (1,), dtype="int32")
    following[0] = Part(first.graph, {noun: label, **first.outputs})
    if weights == "int8" and not sum(with_int8_weights(part.graph) for part in following):
        raise UserError("no layer is wide enough for int8 weights to save time; take float32")
    texts = {tflite.KEY: json.dumps(metadata, allow_nan=False)}
    content = packed([*following, *leaving], texts)
    if weights == "float32":
        _check(model, x, content)
    return content


def _check(model: EarlyExitModel, x: Tensor, content: bytes) -> None:
    """Compare a file's exits with the model's on inputs drawn at random, together and alone.

    Raises:
        UserError: They say something else.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (N_CHECKED, *x.shape[1:])
    inputs = torch.randn(shape, generator=generator)
    if x.dtype == torch.uint8:
        inputs = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    opened = deploy.open_tflite(content, interface(model, x), 1, "the model")
    backend = SessionsBackend("LiteRT", opened, opened.exits[0])
    for batch in (inputs, inputs[:1]):
        found, wanted = (
            _said(segments, batch) for segments in (backend.segments, model.answering())
        )
        size = wanted.abs().amax().clamp_min(1)
        difference = ((found - wanted).abs().amax() / size).item()
        # NaN is no small difference either.
        if not difference <= TOLERANCE and wanted.isfinite().all():
            raise UserError(
                f"LiteRT's answers differ from PyTorch's (log-probabilities by {difference:.1e}); "
                f"{REMEDY}"
            )


def _said(segments: Sequence[SegmentFunction], x: Tensor) -> Tensor:
    """(E, B, C) log-probabilities of every exit."""
    logits: Tensor | None = None
    said = []
    for segment in segments:
        x, logits, log_probs, *_ = segment(x, logits)
        said.append(log_probs)
    return torch.stack(said)


@dataclass(frozen=True)
class _Stage:
    """An exit's graph in the making."""

    graph: Graph
    bounds: Node | None
    """What signals must exceed, or of a gate's file the thresholds; (E−1,)."""
    own: Mapping[str, Node]
    """By what ``deployed.outputs_by`` calls them."""
    passed: Sequence[Value]
    """Features and logits for the next exit."""


def _stages(model: EarlyExitModel, x: Tensor) -> list[_Stage]:
    """One per exit, up to what it answers."""
    n_bounds = model.n_exits - 1
    stages: list[_Stage] = []
    example: list[Tensor] = [x]
    for m, segment in enumerate(model.answering()):
        graph = Graph()
        if m == 0:
            inputs = [input_like(graph, "x", x)]
            bounds = graph.input("thresholds", (n_bounds,), "float32") if n_bounds else None
        else:
            inputs, bounds = _inputs(graph, stages[-1], n_bounds)
        if m and m == n_bounds and not head_is_ensembled(model):
            del inputs[1], example[1]
        features, logits, *said = lowered(graph, segment, example, inputs)
        passed = [_copied(graph, value) for value in (features, logits)]
        own = {
            name: answer(graph, value).node
            for name, value in zip(("log_probs", "confidence", "signal"), said, strict=True)
        }
        own |= zip(deployed.OUTPUTS[:2], (value.node for value in passed), strict=True)
        wanted = deployed.LAST_OUTPUTS if m == n_bounds else deployed.outputs_by(model.rule)
        graph.names |= {own[name].index: tflite.OWN.format(name) for name in wanted}
        stages.append(_Stage(graph, bounds, own, passed))
        example = list(segment(*example)[:2])
    return stages


def _inputs(graph: Graph, before: _Stage, n_bounds: int) -> tuple[list[Value], Node]:
    """What reaches the branches behind an exit: its state, the bounds and what it answers.

    Returns:
        Features and logits; the bounds.
    """
    names = ("features", "logits")
    state = [given(graph, name, value) for name, value in zip(names, before.passed, strict=True)]
    bounds = graph.input("bounds", (n_bounds,), "float32")
    for name in deployed.LAST_OUTPUTS:
        graph.input(name, before.own[name].shape, "float32")
    return state, bounds


def _answered(graph: Graph, m: int, log_probs: Node, confidence: Node) -> dict[str, Node]:
    """Exit m's answer as a graph's outputs.

    Sums with zero make tensors of their own: LiteRT 2.3 frees twice what a branch hands on as it
    came, or as RESHAPE leaves it where it is.
    """

    def own(node: Node, dtype: str) -> Node:
        zero = graph.constant(np.zeros(1, dtype))
        return graph.add("ADD", [node, zero], node.shape, {"fused": "NONE"}, dtype=dtype)

    number = graph.constant(np.array([m], np.int32))
    return {
        "exit": own(number, "int32"),
        "confidence": own(confidence, "float32"),
        "log_probs": own(log_probs, "float32"),
    }


def _branch(stage: _Stage, m: int, subgraphs: tuple[int, int], by_regret: bool) -> dict[str, Node]:
    """Exit m's answer if it may, else what follows, as a graph's outputs."""
    graph, own, bounds = stage.graph, stage.own, stage.bounds
    assert bounds is not None
    if m == 0 and by_regret:
        # A signal is minus a regret.
        bounds = graph.add("NEG", [bounds], bounds.shape)
    place = graph.constant(np.array([m], np.int32))
    bound = graph.add("GATHER", [bounds, place], (1,), {"axis": 0})
    signal = own["signal" if "signal" in own else "confidence"]
    leaves = graph.add("GREATER", [signal, bound], (1,), dtype="bool")
    log_probs, confidence = own["log_probs"], own["confidence"]
    inputs = [*(value.node for value in stage.passed), bounds, log_probs, confidence]
    shapes = [((1,), "int32"), ((1,), "float32"), (log_probs.shape, "float32")]
    outputs = graph.branch(leaves, inputs, subgraphs, shapes)
    return dict(zip(("exit", "confidence", "log_probs"), outputs, strict=True))


def _copied(graph: Graph, value: Value) -> Value:
    """What passes on as it came is copied, since no tensor can be both given and asked for."""
    return replace(value, node=graph.copied(value.node)) if graph.is_input(value.node) else value


def litert(model: EarlyExitModel, x: Tensor, n_threads: int = 1) -> SessionsBackend:
    """Write a model for LiteRT and run it at once, without a file.

    Args:
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.
        n_threads: For the work inside a layer.

    Raises:
        UserError: A package is missing, or LiteRT cannot express a layer.
    """
    metadata = interface(model, x)
    content = one_file(model, x, "label", metadata)
    backbone = Interpreters(backbone_file(model, x), n_threads, "the model")
    opened = deploy.open_tflite(content, metadata, n_threads, "the model")
    return SessionsBackend("LiteRT", opened, backbone)
