"""PyTorch's operators that take each number alone; see ``operators``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ztw_rl.core.backends.litert.arguments import array, need
from ztw_rl.core.backends.litert.graph import Array, Graph
from ztw_rl.core.backends.litert.values import (
    Columns,
    Maps,
    Value,
    as_floats,
    as_maps,
    as_plain,
    reshaped,
)

ACTIVATIONS = {"RELU": "RELU", "RELU6": "RELU6", "TANH": None, "LOGISTIC": None}
"""What each is called where it is part of the operator before it."""

MOST_SHARE = 0.999
"""Of the average in a mix with the maximum, up to which the maximum's share is divided by."""


def same(graph: Graph, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Copies and detached views."""
    return x


def to_copy(graph: Graph, x: Value, dtype: torch.dtype | None = None, **kwargs: Any) -> Value:
    """Conversions to float."""
    need(dtype in (None, torch.float32), f"numbers of the type {dtype}")
    return x


def _activation(graph: Graph, x: Value, code: str) -> Value:
    name = ACTIVATIONS[code]
    commutes = code == "RELU" and x.shift is None and (x.scale is None or (x.scale > 0).all())
    if not commutes:
        x = as_floats(graph, x)
    made = graph.maker(x.node)
    if name is not None and made is not None and made.options.get("fused") == "NONE":
        made.options["fused"] = name
        return x
    x = x if commutes and not x.is_bytes else as_floats(graph, x)
    return replace(x, node=graph.add(code, [x.node], x.node.shape))


def relu(graph: Graph, x: Value) -> Value:
    """See ``torch.relu``."""
    return _activation(graph, x, "RELU")


def tanh(graph: Graph, x: Value) -> Value:
    """See ``torch.tanh``."""
    return _activation(graph, x, "TANH")


def sigmoid(graph: Graph, x: Value) -> Value:
    """See ``torch.sigmoid``."""
    return _activation(graph, x, "LOGISTIC")


def hardtanh(graph: Graph, x: Value, low: float = -1, high: float = 1) -> Value:
    """ReLU6; see ``torch.nn.functional.hardtanh``."""
    need(low == 0 and high == 6, f"a clamp to {low} … {high}")
    return _activation(graph, x, "RELU6")


def hardswish(graph: Graph, x: Value) -> Value:
    """See ``torch.nn.functional.hardswish``."""
    x = as_floats(graph, x)
    return replace(x, node=graph.add("HARD_SWISH", [x.node], x.node.shape))


def hardsigmoid(graph: Graph, x: Value) -> Value:
    """See ``torch.nn.functional.hardsigmoid``: relu6(x + 3) / 6."""
    return mul(graph, hardtanh(graph, add(graph, x, 3.0), 0, 6), 1 / 6)


def silu(graph: Graph, x: Value) -> Value:
    """See ``torch.nn.functional.silu``."""
    x = as_floats(graph, x)
    graph.settle(x.node)
    gate = sigmoid(graph, x)
    node = graph.add("MUL", [x.node, gate.node], x.node.shape, {"fused": "NONE"})
    return replace(x, node=node)


def rsub(graph: Graph, x: Value, other: float, alpha: float = 1) -> Value:
    """See ``torch.rsub``."""
    return sub(graph, other, x, alpha)


def lerp(graph: Graph, start: Value, end: Value, weight: Tensor) -> Value:
    """See ``torch.lerp``; of a maximum and an average it takes one addition."""
    share = float(weight)
    made = graph.maker(end.node)
    need(start.layout == end.layout, "a mix of such shapes")
    plain = all(v.scale is None and v.shift is None for v in (start, end))
    plain = plain and made is not None and made.options.get("fused") == "NONE"
    plain = plain and start.node is not end.node
    if made is None or made.weights is None or made.bias is None or not plain:
        rest = scaled(graph, as_floats(graph, start), 1 - share)
        mixed = scaled(graph, as_floats(graph, end), share)
        return added(graph, rest, mixed)
    own = share
    if share < MOST_SHARE:
        own = share / (1 - share)
    else:
        start = scaled(graph, start, 1 - share)
    made.weights, made.bias = made.weights * np.float32(own), made.bias * np.float32(own)
    mixed = added(graph, start, end)
    return replace(mixed, scale=np.float32(1 - share)) if share < MOST_SHARE else mixed


def scaled(graph: Graph, x: Value, by: float) -> Value:
    """Times a number, at once."""
    node = graph.add(
        "MUL", [x.node, graph.constant(np.float32(by))], x.node.shape, {"fused": "NONE"}
    )
    return replace(x, node=node)


def added(graph: Graph, a: Value, b: Value, code: str = "ADD") -> Value:
    """Sum, or what else the schema's name says, of two that lie alike."""
    memory = np.broadcast_shapes(a.node.shape, b.node.shape)
    node = graph.add(code, [a.node, b.node], memory, {"fused": "NONE"})
    return replace(a, node=node, shape=np.broadcast_shapes(a.shape, b.shape))


Given = Value | Tensor | float


def add(graph: Graph, a: Given, b: Given, alpha: float = 1) -> Value:
    """See ``torch.add``."""
    need(alpha == 1, "a scaled sum")
    if not isinstance(a, Value):
        a, b = b, a
    assert isinstance(a, Value)
    if isinstance(b, Value):
        return _elementwise(graph, a, b, "ADD")
    return affine(graph, a, None, b)


def sub(graph: Graph, a: Given, b: Given, alpha: float = 1) -> Value:
    """See ``torch.sub``."""
    need(alpha == 1, "a scaled difference")
    if not isinstance(b, Value):
        assert isinstance(a, Value)
        return affine(graph, a, None, -b)
    if isinstance(a, Value):
        return _elementwise(graph, a, b, "SUB")
    return affine(graph, b, -1.0, a)


def neg(graph: Graph, x: Value) -> Value:
    """See ``torch.neg``."""
    return affine(graph, x, -1.0, None)


def mul(graph: Graph, a: Given, b: Given) -> Value:
    """See ``torch.mul``."""
    if not isinstance(a, Value):
        a, b = b, a
    assert isinstance(a, Value)
    if isinstance(b, Value):
        return _elementwise(graph, a, b, "MUL")
    return affine(graph, a, b, None)


def addcmul(graph: Graph, start: Given, a: Given, b: Given, value: float = 1) -> Value:
    """See ``torch.addcmul``."""
    need(value == 1, "a scaled sum")
    return add(graph, start, mul(graph, a, b))


def div(graph: Graph, a: Value, b: Tensor | float) -> Value:
    """See ``torch.div``, by what never changes."""
    need(not isinstance(b, Value), "a quotient of two values")
    return affine(graph, a, 1 / b, None)


def _elementwise(graph: Graph, a: Value, b: Value, code: str) -> Value:
    need(len(a.shape) == len(b.shape), "a sum of such shapes")
    if a.layout == Maps() or b.layout == Maps():
        a, b = as_floats(graph, as_maps(graph, a)), as_floats(graph, as_maps(graph, b))
    else:
        a, b = as_plain(graph, a), as_plain(graph, b)
        a, b = (replace(v, node=reshaped(graph, v.node, v.shape)) for v in (a, b))
    return added(graph, a, b, code)


def affine(
    graph: Graph, x: Value, scale: Tensor | float | None, shift: Tensor | float | None
) -> Value:
    """Left to the next layer's weights, which it may be multiplied into."""
    if len(x.shape) == 4 and any(isinstance(n, Tensor) and n.numel() > 1 for n in (scale, shift)):
        x = as_maps(graph, x)
    by = None if scale is None else _channelwise(x, scale)
    more = None if shift is None else _channelwise(x, shift)
    made = graph.maker(x.node)
    # An ensemble's bias becomes that of its product.
    if (
        by is None
        and more is not None
        and x.scale is None
        and x.shift is None
        and made is not None
        and made.bias is not None
        and made.options.get("fused") == "NONE"
    ):
        made.bias = made.bias + more
        return x
    if by is not None:
        own = by if x.scale is None else np.float32(x.scale * by)
        x = replace(x, scale=own, shift=None if x.shift is None else np.float32(x.shift * by))
    if more is not None:
        x = replace(x, shift=more if x.shift is None else np.float32(x.shift + more))
    return x


def _channelwise(x: Value, by: Tensor | float) -> Array:
    """() or of the last dimension in memory."""
    numbers = array(by) if isinstance(by, Tensor) else np.array(by, np.float32)
    if numbers.size == 1:
        whole: Array = numbers.reshape(())
        return whole
    if isinstance(x.layout, Maps):
        need(numbers.ndim >= 3 and numbers.size == numbers.shape[-3] == x.shape[1], "such a sum")
        return numbers.ravel()
    need(numbers.size == numbers.shape[-1] == x.shape[-1] == x.node.shape[-1], "such a sum")
    numbers = numbers.ravel()
    return numbers[x.layout.order] if isinstance(x.layout, Columns) else numbers


def log_softmax(graph: Graph, x: Value, axis: int, *args: Any) -> Value:
    """See ``torch.log_softmax``, over the last dimension."""
    need(axis % len(x.shape) == len(x.shape) - 1, "a softmax over another dimension")
    x = as_plain(graph, x)
    node = graph.add("LOG_SOFTMAX", [reshaped(graph, x.node, x.shape)], x.shape)
    return Value(node, x.shape)


def exp(graph: Graph, x: Value) -> Value:
    """See ``torch.exp``."""
    x = as_plain(graph, x)
    made = graph.made_by(x.node)
    if made is not None and made.code == "LOG_SOFTMAX":
        node = graph.add("SOFTMAX", made.inputs, x.node.shape, {"beta": 1.0})
        return replace(x, node=node)
    return replace(x, node=graph.add("EXP", [x.node], x.node.shape))


def log(graph: Graph, x: Value) -> Value:
    """See ``torch.log``."""
    x = as_plain(graph, x)
    return replace(x, node=graph.add("LOG", [x.node], x.node.shape))


def minimum(graph: Graph, a: Value, b: Tensor) -> Value:
    """See ``torch.minimum``, with what never changes."""
    return _bounded(graph, a, b, "MINIMUM")


def maximum(graph: Graph, a: Value, b: Tensor) -> Value:
    """See ``torch.maximum``, with what never changes."""
    return _bounded(graph, a, b, "MAXIMUM")


def _bounded(graph: Graph, a: Value, b: Tensor, code: str) -> Value:
    need(isinstance(b, Tensor) and b.numel() == 1, "a bound that is computed")
    a = as_floats(graph, a)
    limit = array(b).reshape(())
    # Finite, since infinities are no numbers of a file.
    limit = np.clip(limit, np.finfo(np.float32).min, np.finfo(np.float32).max)
    node = graph.add(code, [a.node, graph.constant(np.float32(limit))], a.node.shape)
    return replace(a, node=node)
