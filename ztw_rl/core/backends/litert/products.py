"""PyTorch's products of matrices, and what can be part of one; see ``operators``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ztw_rl.core.backends.litert.arguments import UnsupportedError, array, need
from ztw_rl.core.backends.litert.graph import Array, Graph, Node
from ztw_rl.core.backends.litert.pointwise import affine
from ztw_rl.core.backends.litert.values import (
    Columns,
    Maps,
    Plain,
    Value,
    as_plain,
    converted,
    flattened,
    reshaped,
    with_axes,
)

FEW = 32
"""Numbers up to which a product with a matrix is the quickest way to add them up."""


def linear(graph: Graph, x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
    """See ``torch.nn.functional.linear``."""
    w = array(weight)
    b = np.zeros(len(w), np.float32) if bias is None else array(bias)
    return _layer(graph, x, w, b)


def _layer(graph: Graph, x: Value, w: Array, b: Array) -> Value:
    """A product whose weights were learnt."""
    made = product(graph, x, w, b)
    step = graph.made_by(made.node)
    assert step is not None
    step.is_layer = True
    return made


def product(graph: Graph, x: Value, w: Array, b: Array) -> Value:
    """(…, D) times (C, D) transposed, plus (C,)."""
    if isinstance(x.layout, Columns):
        w = w[:, x.layout.order]
    elif not isinstance(x.layout, Plain):
        x = as_plain(graph, x)
    x = converted(graph, x)
    if x.shift is not None:
        b = b + (w * x.shift).sum(axis=1)
    if x.scale is not None:
        w = w * x.scale
    shape = (*x.shape[:-1], len(w))
    options = {"fused": "NONE", "keepNumDims": len(shape) > 2}
    node = reshaped(graph, x.node, x.shape)
    return Value(graph.add("FULLY_CONNECTED", [node], shape, options, weights=w, bias=b), shape)


def addmm(graph: Graph, bias: Tensor, x: Value, weight: Tensor) -> Value:
    """See ``torch.addmm``."""
    return _layer(graph, x, array(weight).T, array(bias))


def matmul(graph: Graph, a: Value | Tensor, b: Value | Tensor) -> Value:
    """Of fixed weights (M,) with members (B, M, C), or of (…, D) with fixed (D, C)."""
    if isinstance(a, Tensor) and isinstance(b, Value):
        need(a.ndim == 1 and len(b.shape) == 3, "a product of such shapes")
        _, n, c = b.shape
        if c > FEW:
            return _weighted(graph, b, array(a))
        w = np.kron(array(a), np.eye(c, dtype=np.float32))
        flat = flattened(graph, b)
        return product(graph, flat, w.reshape(c, n * c), np.zeros(c, np.float32))
    if not isinstance(a, Value) or not isinstance(b, Tensor):
        raise UnsupportedError("a product of two values")
    need(b.ndim == 2, "a product of such shapes")
    w = array(b).T
    return _layer(graph, a, w, np.zeros(len(w), np.float32))


def _weighted(graph: Graph, members: Value, weights: Array) -> Value:
    """(B, C) sum of (B, M, C) members, each times its weight."""
    members = with_axes(graph, members)
    _, n, c = members.shape
    each = graph.constant(weights.reshape(1, n, 1))
    node = graph.add("MUL", [members.node, each], members.shape, {"fused": "NONE"})
    axes = graph.constant(np.array([1], np.int32))
    return Value(graph.add("SUM", [node, axes], (1, c), {"keepDims": False}), (1, c))


def batch_norm(
    graph: Graph,
    x: Value,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Value, None]:
    """See ``torch.nn.functional.batch_norm``, outside training; part of a convolution before it."""
    scale = 1 / torch.sqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    by, more = array(scale), array(shift)
    made = graph.maker(x.node)
    # Output channels are the second dimension of maps, and of vectors.
    fits = isinstance(x.layout, Maps) or (len(x.shape) == 2 and x.node.shape == x.shape)
    if (
        made is not None
        and fits
        and made.weights is not None
        and made.bias is not None
        and made.options.get("fused") == "NONE"
        and x.scale is None
        and x.shift is None
    ):
        depthwise = made.code == "DEPTHWISE_CONV_2D"
        made.weights = made.weights * (
            by if depthwise else by.reshape(-1, *[1] * (made.weights.ndim - 1))
        )
        made.bias = made.bias * by + more
        return x, None
    shaped = (-1, *[1] * (len(x.shape) - 2))
    return affine(graph, x, scale.reshape(shaped), shift.reshape(shaped)), None


def _centred(graph: Graph, node: Node, eps: float) -> tuple[Node, Node]:
    """(B, D) without its mean, and (B, 1) variance and a little more."""
    axes = graph.constant(np.array([1], np.int32))
    mean = graph.add("MEAN", [node, axes], (1, 1), {"keepDims": True})
    centred = graph.add("SUB", [node, mean], node.shape, {"fused": "NONE"})
    square = graph.add("SQUARE", [centred], node.shape)
    spread = graph.add("MEAN", [square, axes], (1, 1), {"keepDims": True})
    least = graph.constant(np.float32(eps))
    return centred, graph.add("ADD", [spread, least], (1, 1), {"fused": "NONE"})


def layer_norm(
    graph: Graph,
    x: Value,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *args: Any,
) -> Value:
    """See ``torch.nn.functional.layer_norm``, over the last dimension of (B, D)."""
    need(len(shape) == 1 and len(x.shape) == 2, "such a normalisation")
    x = as_plain(graph, x)
    n = x.shape[-1]
    if n > FEW:
        centred, spread = _centred(graph, reshaped(graph, x.node, x.shape), eps)
    else:
        even = np.full((n, n), 1 / n, np.float32)
        less = np.eye(n, dtype=np.float32) - even
        centred = product(graph, x, less, np.zeros(n, np.float32)).node
        square = Value(graph.add("SQUARE", [centred], x.shape), x.shape)
        spread = product(graph, square, even, np.full(n, eps, np.float32)).node
    root = graph.add("RSQRT", [spread], spread.shape)
    node = graph.add("MUL", [centred, root], x.shape, {"fused": "NONE"})
    return Value(
        node,
        x.shape,
        Plain(),
        None if weight is None else array(weight),
        None if bias is None else array(bias),
    )
