"""How PyTorch's tensors lie in a LiteRT graph.

PyTorch has channels before rows and columns, LiteRT behind them. Nothing is moved that the next
layer's weights can be moved for instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ztw_rl.core.backends.litert.graph import Array, Graph, Node


@dataclass(frozen=True)
class Plain:
    """In PyTorch's order, in whatever dimensions."""


@dataclass(frozen=True)
class Maps:
    """(B, C, H, W) that lies as (B, H, W, C)."""


@dataclass(frozen=True, eq=False)
class Columns:
    """(B, D) in another order: place j holds column ``order[j]``."""

    order: Array


@dataclass(frozen=True)
class Blocks:
    """(B, C, H, W) that lies as (B, H/s, W/s, C·s·s): each s×s block is one place."""

    stride: int


Layout = Plain | Maps | Columns | Blocks


@dataclass(frozen=True, eq=False)
class Value:
    """A PyTorch tensor of a batch of one, as a graph has it: ``node`` · ``scale`` + ``shift``."""

    node: Node
    shape: tuple[int, ...]
    """PyTorch's."""
    layout: Layout = Plain()
    scale: Array | None = None
    """() or of the last dimension in memory; None is 1."""
    shift: Array | None = None
    """The same; None is 0."""

    @property
    def is_bytes(self) -> bool:
        """Whether it is what a camera gives, not yet converted."""
        return self.node.dtype == "uint8"


def input_like(graph: Graph, name: str, x: Tensor) -> Value:
    """An input in PyTorch's order.

    Args:
        graph: To which it is added.
        name: Of the input.
        x: (1, …), any of the right shape and type.
    """
    shape = tuple(x.shape)
    return Value(graph.input(name, shape, str(x.numpy().dtype)), shape)


def given(graph: Graph, name: str, like: Value) -> Value:
    """An input that lies as a value of another graph does.

    Args:
        graph: To which it is added.
        name: Of the input.
        like: What another graph gives.
    """
    node = graph.input(name, like.node.shape, like.node.dtype)
    return replace(like, node=node)


def converted(graph: Graph, x: Value) -> Value:
    """Floats of bytes, not yet scaled."""
    if not x.is_bytes:
        return x
    return replace(x, node=graph.add("DEQUANTIZE", [x.node], x.node.shape))


def as_floats(graph: Graph, x: Value) -> Value:
    """The same without anything left to be done to it, in the same order."""
    node, shape = converted(graph, x).node, x.node.shape
    for code, by in (("MUL", x.scale), ("ADD", x.shift)):
        if by is not None:
            node = graph.add(code, [node, graph.constant(np.float32(by))], shape, {"fused": "NONE"})
    return replace(x, node=node, scale=None, shift=None)


def reshaped(graph: Graph, node: Node, shape: tuple[int, ...]) -> Node:
    """The same numbers in other dimensions; the first stays the batch's."""
    if node.shape == shape:
        return node
    wanted = graph.constant(np.array([-1, *shape[1:]], np.int32))
    return graph.add("RESHAPE", [node, wanted], shape, dtype=node.dtype)


def transposed(graph: Graph, node: Node, order: tuple[int, ...]) -> Node:
    """The same numbers with other dimensions first."""
    axes = graph.constant(np.array(order, np.int32))
    shape = tuple(node.shape[axis] for axis in order)
    return graph.add("TRANSPOSE", [node, axes], shape, dtype=node.dtype)


def as_maps(graph: Graph, x: Value) -> Value:
    """(B, C, H, W) as ``Maps``; bytes stay bytes, of which there are four times less to move."""
    if isinstance(x.layout, Maps):
        return x
    if not (x.is_bytes and isinstance(x.layout, Plain)):
        x = as_plain(graph, x)
    node = transposed(graph, reshaped(graph, x.node, x.shape), (0, 2, 3, 1))
    return replace(x, node=node, layout=Maps())


def as_blocks(graph: Graph, x: Value, stride: int) -> Value:
    """Bytes (B, C, H, W) as ``Blocks``, from those in PyTorch's order.

    Args:
        graph: To which it is added.
        x: Its height and width are multiples of the stride.
        stride: s.
    """
    if x.layout == Blocks(stride):
        return x
    _, c, h, w = x.shape
    rows, columns = h // stride, w // stride
    node = reshaped(graph, x.node, (1, c, rows, stride, columns, stride))
    node = transposed(graph, node, (0, 2, 4, 1, 3, 5))
    node = reshaped(graph, node, (1, rows, columns, c * stride * stride))
    return replace(x, node=node, layout=Blocks(stride))


def as_plain(graph: Graph, x: Value) -> Value:
    """Floats in PyTorch's order, of any dimensions."""
    layout = x.layout
    if isinstance(layout, Blocks):
        _, c, h, w = x.shape
        s = layout.stride
        node = reshaped(graph, x.node, (1, h // s, w // s, c, s, s))
        node = transposed(graph, node, (0, 3, 1, 4, 2, 5))
        x = replace(x, node=reshaped(graph, node, x.shape), layout=Plain())
    x = as_floats(graph, x)
    if isinstance(layout, Maps):
        return replace(x, node=transposed(graph, x.node, (0, 3, 1, 2)), layout=Plain())
    if isinstance(layout, Columns):
        order = graph.constant(np.argsort(layout.order).astype(np.int32))
        node = graph.add("GATHER", [x.node, order], x.shape, {"axis": 1})
        return replace(x, node=node, layout=Plain())
    return x


def lying(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as it is in memory, of ``Maps`` or ``Plain``."""
    if not isinstance(layout, Maps):
        return shape
    batch, channels, height, width = shape
    return batch, height, width, channels


def place_of(layout: Layout, axis: int) -> int:
    """Where one of PyTorch's dimensions is in memory, of ``Maps`` or ``Plain``."""
    return (0, 3, 1, 2)[axis] if isinstance(layout, Maps) else axis


def with_axes(graph: Graph, x: Value) -> Value:
    """Floats as ``Maps`` or ``Plain``, with every dimension of PyTorch's."""
    if isinstance(x.layout, Maps):
        return as_floats(graph, x)
    x = as_plain(graph, x)
    return replace(x, node=reshaped(graph, x.node, x.shape))


def flattened(graph: Graph, x: Value) -> Value:
    """(B, …) as (B, D) floats, not moved."""
    x = converted(graph, x)
    width = math.prod(x.shape[1:])
    shape = (1, width)
    if not isinstance(x.layout, Maps):
        x = as_plain(graph, x) if not isinstance(x.layout, Columns) else x
        return replace(x, node=reshaped(graph, x.node, shape), shape=shape)
    _, c, h, w = x.shape
    order = np.arange(width).reshape(c, h, w).transpose(1, 2, 0).ravel()

    def spread(by: Array | None) -> Array | None:
        return by if by is None or by.ndim == 0 else np.tile(by, h * w)

    return Value(
        reshaped(graph, x.node, shape), shape, Columns(order), spread(x.scale), spread(x.shift)
    )
