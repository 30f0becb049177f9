"""PyTorch's sums, means and maxima; see ``operators``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ztw_rl.core.backends.litert.arguments import need, pair
from ztw_rl.core.backends.litert.graph import Graph
from ztw_rl.core.backends.litert.values import (
    Maps,
    Plain,
    Value,
    as_plain,
    lying,
    place_of,
    reshaped,
    with_axes,
)


def adaptive_avg_pool2d(graph: Graph, x: Value, size: Sequence[int]) -> Value:
    """See ``torch.nn.functional.adaptive_avg_pool2d``, to one place."""
    need(pair(size) == (1, 1), "an adaptive pooling to more than one place")
    return mean(graph, x, [2, 3], True)


def _reduced(graph: Graph, x: Value, axes: Sequence[int] | None, keep: bool, code: str) -> Value:
    """What the schema's name says, over some dimensions."""
    rank = len(x.shape)
    gone = sorted(axis % rank for axis in axes or ())
    need(bool(gone) and 0 not in gone, "a reduction over the batch")
    # Without some of its dimensions, a map has nothing to be laid out by.
    stays = isinstance(x.layout, Maps) and (keep or gone == [2, 3])
    x = with_axes(graph, x if stays else as_plain(graph, x))
    places = [place_of(x.layout, axis) for axis in gone]
    shape = tuple(1 if axis in gone else n for axis, n in enumerate(x.shape))
    memory = lying(x.layout, shape)
    layout = x.layout
    if not keep:
        shape = tuple(n for axis, n in enumerate(shape) if axis not in gone)
        memory, layout = shape, Plain()
    order = graph.constant(np.array(places, np.int32))
    return Value(graph.add(code, [x.node, order], memory, {"keepDims": keep}), shape, layout)


def mean(
    graph: Graph, x: Value, axes: Sequence[int] | None, keep: bool = False, **kwargs: Any
) -> Value:
    """See ``torch.mean``."""
    return _reduced(graph, x, axes, keep, "MEAN")


def sum_(
    graph: Graph, x: Value, axes: Sequence[int] | None, keep: bool = False, **kwargs: Any
) -> Value:
    """See ``torch.sum``."""
    return _reduced(graph, x, axes, keep, "SUM")


def amax(graph: Graph, x: Value, axes: Sequence[int] = (), keep: bool = False) -> Value:
    """See ``torch.amax``."""
    return _reduced(graph, x, axes, keep, "REDUCE_MAX")


def topk(
    graph: Graph, x: Value, k: int, axis: int = -1, largest: bool = True, order: bool = True
) -> tuple[Value, None]:
    """The values of ``torch.topk``, over the last dimension."""
    need(largest, "the smallest of a dimension")
    need(axis % len(x.shape) == len(x.shape) - 1, "the largest of another dimension")
    x = as_plain(graph, x)
    shape = (*x.shape[:-1], k)
    # A number, so an array without dimensions.
    inputs = [reshaped(graph, x.node, x.shape), graph.constant(np.array(k, np.int32))]
    return Value(graph.add("TOPK_V2", inputs, shape, unread="int32"), shape), None
