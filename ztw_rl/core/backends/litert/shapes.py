"""PyTorch's operators that move numbers or join them; see ``operators``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ztw_rl.core.backends.litert.arguments import array, need
from ztw_rl.core.backends.litert.graph import Array, Graph
from ztw_rl.core.backends.litert.products import product
from ztw_rl.core.backends.litert.values import (
    Columns,
    Maps,
    Plain,
    Value,
    as_maps,
    as_plain,
    flattened,
    lying,
    place_of,
    reshaped,
    transposed,
    with_axes,
)


def cat(graph: Graph, given: Sequence[Value | Tensor], axis: int = 0) -> Value:
    """See ``torch.cat``."""
    computed = next(part for part in given if isinstance(part, Value))
    axis %= len(computed.shape)
    parts = [
        part if isinstance(part, Value) else _repeated(graph, part, computed) for part in given
    ]
    need(axis > 0, "a concatenation along the batch")
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    if len(shape) == 2 and axis == 1:
        return _columns(graph, parts, tuple(shape))
    if axis == 1 and all(len(part.node.shape) == 2 for part in parts):
        # A history of logits, one exit behind the other.
        parts = [as_plain(graph, part) for part in parts]
        width = math.prod(shape[1:])
        node = graph.add("CONCATENATION", [part.node for part in parts], (1, width), {"axis": 1})
        return Value(node, tuple(shape))
    if any(isinstance(part.layout, Maps) for part in parts):
        parts = [as_maps(graph, part) for part in parts]
    parts = [with_axes(graph, part) for part in parts]
    layout, whole = parts[0].layout, tuple(shape)
    options = {"axis": place_of(layout, axis)}
    nodes = [part.node for part in parts]
    return Value(graph.add("CONCATENATION", nodes, lying(layout, whole), options), whole, layout)


def stack(graph: Graph, parts: Sequence[Value], axis: int = 0) -> Value:
    """See ``torch.stack``."""
    axis %= len(parts[0].shape) + 1
    return cat(graph, [unsqueeze(graph, part, axis) for part in parts], axis)


def _repeated(graph: Graph, fixed: Tensor, like: Value) -> Value:
    """The same (1, D) numbers for each sample of a batch of (B, D)."""
    need(fixed.ndim == 2 and len(like.shape) == 2, "a concatenation with such numbers")
    none = np.zeros((fixed.shape[1], like.shape[1]), np.float32)
    return product(graph, like, none, array(fixed).ravel())


def _columns(graph: Graph, parts: Sequence[Value], shape: tuple[int, ...]) -> Value:
    """Vectors behind each other, each in its own order and with its own scale."""
    orders: list[Array] = []
    start = 0
    for part in parts:
        width = part.shape[1]
        own = part.layout.order if isinstance(part.layout, Columns) else np.arange(width)
        orders.append(own + start)
        start += width

    def spread(name: str, none: float) -> Array | None:
        found = [getattr(part, name) for part in parts]
        if all(each is None for each in found):
            return None
        return np.concatenate(
            [
                np.broadcast_to(np.float32(none if each is None else each), part.shape[1])
                for each, part in zip(found, parts, strict=True)
            ]
        )

    nodes = [reshaped(graph, part.node, part.shape) for part in parts]
    node = graph.add("CONCATENATION", nodes, shape, {"axis": 1})
    order = np.concatenate(orders)
    plain = bool((order == np.arange(len(order))).all())
    layout = Plain() if plain else Columns(order)
    return Value(node, shape, layout, spread("scale", 1), spread("shift", 0))


def unsqueeze(graph: Graph, x: Value, axis: int) -> Value:
    """See ``torch.unsqueeze``."""
    axis %= len(x.shape) + 1
    need(axis > 0, "another dimension before the batch")
    x = as_plain(graph, x)
    return replace(x, shape=(*x.shape[:axis], 1, *x.shape[axis:]))


def squeeze(graph: Graph, x: Value, axis: Any) -> Value:
    """See ``torch.squeeze``."""
    axes = [each % len(x.shape) for each in (axis if isinstance(axis, list | tuple) else [axis])]
    need(0 not in axes, "a view without the batch")
    x = as_plain(graph, x)
    return replace(x, shape=tuple(n for k, n in enumerate(x.shape) if k not in axes or n != 1))


def select(graph: Graph, x: Value, axis: int, index: int) -> Value:
    """See ``torch.select``."""
    axis, n = axis % len(x.shape), x.shape[axis]
    need(axis > 0, "a part of the batch")
    part = slice_(graph, x, axis, index % n, index % n + 1)
    part = as_plain(graph, part)
    return replace(part, shape=tuple(n for k, n in enumerate(x.shape) if k != axis))


def slice_(
    graph: Graph,
    x: Value,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """See ``torch.narrow``."""
    axis %= len(x.shape)
    n = x.shape[axis]
    first, last, step = slice(start, end, step).indices(n)
    if (first, last, step) == (0, n, 1):
        return x
    need(axis > 0 and step > 0, "a part of the batch")
    count = len(range(first, last, step))
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    if axis == 1 and len(x.shape) == 3 and len(x.node.shape) == 2 and step == 1:
        # One exit's logits out of a history.
        x = as_plain(graph, x)
        width = x.shape[2]
        memory: tuple[int, ...] = (1, count * width)
        first, last, place = first * width, last * width, 1
    else:
        x = with_axes(graph, x)
        place, memory = place_of(x.layout, axis), lying(x.layout, shape)
    rank = len(memory)
    bounds = np.zeros((3, rank), np.int32)
    bounds[2] = 1
    bounds[:, place] = first, last, step
    whole = sum(1 << k for k in range(rank) if k != place)
    inputs = [x.node, *(graph.constant(each) for each in bounds)]
    options = {"beginMask": whole, "endMask": whole}
    node = graph.add("STRIDED_SLICE", inputs, memory, options)
    return replace(x, node=node, shape=shape)


def index_select(graph: Graph, x: Value, axis: int, index: Tensor) -> Value:
    """See ``torch.index_select``."""
    axis %= len(x.shape)
    need(axis > 0, "a part of the batch")
    shape = (*x.shape[:axis], len(index), *x.shape[axis + 1 :])
    x = with_axes(graph, x)
    inputs = [x.node, graph.constant(index.numpy().astype(np.int32))]
    options = {"axis": place_of(x.layout, axis)}
    return replace(
        x, node=graph.add("GATHER", inputs, lying(x.layout, shape), options), shape=shape
    )


def view(graph: Graph, x: Value, shape: Sequence[int]) -> Value:
    """See ``torch.Tensor.view``; the first dimension stays the batch's."""
    width = math.prod(x.shape)
    known = math.prod(n for n in shape if n != -1)
    wanted = tuple(width // known if n == -1 else n for n in shape)
    need(wanted[0] == 1, "a view that moves the batch")
    if len(wanted) == 2:
        return flattened(graph, x)
    x = as_plain(graph, x)
    return replace(x, shape=wanted)


def flatten(graph: Graph, x: Value, start: int = 0, end: int = -1) -> Value:
    """See ``torch.flatten``."""
    start, end = start % len(x.shape), end % len(x.shape)
    need(start > 0, "a view that moves the batch")
    width = math.prod(x.shape[start : end + 1])
    return view(graph, x, (*x.shape[:start], width, *x.shape[end + 1 :]))


def permute(graph: Graph, x: Value, order: Sequence[int]) -> Value:
    """See ``torch.permute``."""
    need(order[0] == 0, "a permutation of the batch")
    x = as_plain(graph, x)
    node = transposed(graph, reshaped(graph, x.node, x.shape), tuple(order))
    return Value(node, node.shape)


def padded(
    graph: Graph,
    x: Value,
    pads: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Value:
    """See ``torch.nn.functional.pad``."""
    need(mode == "constant", f"padding of the kind {mode}")
    return pad(graph, x, pads, value or 0)


def pad(graph: Graph, x: Value, pads: Sequence[int], value: float = 0) -> Value:
    """See ``torch.nn.functional.pad`` with zeros."""
    need(value == 0 and min(pads) >= 0, "padding with other numbers than zero")
    x = with_axes(graph, x)
    rank = len(x.shape)
    around = np.zeros((rank, 2), np.int32)
    shape = list(x.shape)
    for k in range(len(pads) // 2):
        axis = rank - 1 - k
        around[place_of(x.layout, axis)] = pads[2 * k : 2 * k + 2]
        shape[axis] += sum(pads[2 * k : 2 * k + 2])
    memory = lying(x.layout, tuple(shape))
    node = graph.add("PAD", [x.node, graph.constant(around)], memory)
    return replace(x, node=node, shape=tuple(shape))
