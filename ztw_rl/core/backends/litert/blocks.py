"""Convolutions whose stride divides their window: blocks of places become channels.

A window of 8×8 with stride 4 over 4 channels is one of 2×2 with stride 1 over 64. So pixels are
moved as bytes, and a layer of few channels can fill the lanes of the processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ztw_rl.core.backends.litert.graph import VALID, Array, Graph, Operator
from ztw_rl.core.backends.litert.values import Blocks, Maps, Plain, Value, as_blocks

LANES = 16
"""Output channels that XNNPACK computes at once, at least."""


def in_blocks(graph: Graph, x: Value, kernel: Sequence[int], stride: int) -> Value | None:
    """What a convolution without padding reads, as ``Blocks`` of its stride.

    Args:
        graph: To which it is added.
        x: (B, C, H, W).
        kernel: Height and width of the window.
        stride: In both directions.

    Returns:
        None where x cannot be had like this without moving floats.
    """
    if stride == 1 or any(n % stride for n in (*kernel, *x.shape[2:])):
        return None
    if x.layout == Blocks(stride) or (x.is_bytes and x.layout == Plain()):
        return as_blocks(graph, x, stride)
    made = graph.maker(x.node)
    if made is None or x.layout != Maps() or x.scale is not None or x.shift is not None:
        return None
    return _block_by_block(graph, x, made, stride)


def over_blocks(weights: Array, stride: int) -> Array:
    """Weights (C', H, W, C) of a window as those of the window over blocks, (C', H/s, W/s, C·s·s).

    Args:
        weights: Output channels first.
        stride: s, which divides H and W.
    """
    n, height, width, _ = weights.shape
    rows, columns = height // stride, width // stride
    split = weights.reshape(n, rows, stride, columns, stride, -1).transpose(0, 1, 3, 5, 2, 4)
    joined: Array = split.reshape(n, rows, columns, -1)
    return joined


def _block_by_block(graph: Graph, x: Value, made: Operator, side: int) -> Value | None:
    """Let the convolution before compute all places of a block at once, as so many channels.

    It multiplies by zeros as well, which costs nothing where lanes were idle.
    """
    options, weights, bias = made.options, made.weights, made.bias
    if made.code != "CONV_2D" or weights is None or bias is None:
        return None
    step = options["strideH"]
    plain = {"padding": VALID, "strideW": step, "dilationHFactor": 1, "dilationWFactor": 1}
    if options != options | plain or len(weights) * side**2 > LANES:
        return None
    n, height, width, channels = weights.shape
    reach = (side - 1) * step
    wider = np.zeros((n, side, side, height + reach, width + reach, channels), np.float32)
    for row in range(side):
        for column in range(side):
            top, left = row * step, column * step
            wider[:, row, column, top : top + height, left : left + width] = weights
    made.weights = wider.reshape(n * side**2, *wider.shape[3:])
    made.bias = np.repeat(bias, side**2)
    options |= {"strideH": step * side, "strideW": step * side}
    _, _, rows, columns = x.shape
    node = graph.remade(made, (1, rows // side, columns // side, n * side**2))
    return replace(x, node=node, layout=Blocks(side))
