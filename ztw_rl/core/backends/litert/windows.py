"""PyTorch's convolutions and poolings; see ``operators``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from ztw_rl.core.backends.litert.arguments import array, need, pair
from ztw_rl.core.backends.litert.blocks import in_blocks, over_blocks
from ztw_rl.core.backends.litert.graph import SAME, VALID, Graph, Node
from ztw_rl.core.backends.litert.values import (
    Maps,
    Value,
    as_floats,
    as_maps,
    converted,
)


def conv2d(
    graph: Graph,
    x: Value,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Value:
    """See ``torch.nn.functional.conv2d``."""
    w = array(weight).transpose(0, 2, 3, 1)
    b = np.zeros(len(w), np.float32) if bias is None else array(bias)
    strides, pads, spread = pair(stride), pair(padding), pair(dilation)
    height, width = x.shape[2:]
    kernel = w.shape[1:3]
    size = tuple(
        (extent + 2 * p - d * (k - 1) - 1) // s + 1
        for extent, p, d, k, s in zip((height, width), pads, spread, kernel, strides, strict=True)
    )
    shape = (1, *size, len(w))
    blocks = None
    if strides[0] == strides[1] and not any(pads) and spread == (1, 1) and groups == 1:
        blocks = in_blocks(graph, x, kernel, strides[0])
    if blocks is not None:
        x = converted(graph, blocks)
        w, strides = over_blocks(w, strides[0]), (1, 1)
    else:
        x = converted(graph, as_maps(graph, x))
        if groups > 1 or (x.shift is not None and any(pads)):
            x = as_floats(graph, x)
    if x.shift is not None:
        b = b + (w * x.shift).sum(axis=(1, 2, 3))
    if x.scale is not None:
        w = w * x.scale
    node, mode = _padded(graph, x.node, kernel, strides, pads, spread)
    options = {
        "padding": mode,
        "fused": "NONE",
        "strideH": strides[0],
        "strideW": strides[1],
        "dilationHFactor": spread[0],
        "dilationWFactor": spread[1],
    }
    if groups > 1 and groups == x.shape[1]:
        need(len(w) % groups == 0, "such groups")
        options["depthMultiplier"] = len(w) // groups
        depth = w[..., 0].transpose(1, 2, 0)[None]
        node = graph.add("DEPTHWISE_CONV_2D", [node], shape, options, weights=depth, bias=b)
    else:
        node = graph.add("CONV_2D", [node], shape, options, weights=w, bias=b)
    return Value(node, (1, len(w), *size), Maps())


def _padded(
    graph: Graph,
    node: Node,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    spread: Sequence[int],
    least: float | None = None,
) -> tuple[Node, int]:
    """What a window reads, and the schema's name of how it treats the border.

    Args:
        graph: To which the border is added.
        node: (B, H, W, C).
        kernel: The window's sides.
        strides: Of the window.
        pads: On each side.
        spread: Dilations.
        least: Of a maximum, what no value is below.
    """
    if not any(pads):
        return node, VALID
    if list(strides) == [1, 1] and all(
        2 * p == d * (k - 1) for p, d, k in zip(pads, spread, kernel, strict=True)
    ):
        return node, SAME
    _, height, width, channels = node.shape
    around = np.array([[0, 0], [pads[0]] * 2, [pads[1]] * 2, [0, 0]], np.int32)
    shape = (1, height + 2 * pads[0], width + 2 * pads[1], channels)
    inputs = [node, graph.constant(around)]
    if least is None:
        return graph.add("PAD", inputs, shape), VALID
    inputs.append(graph.constant(np.array([least], np.float32)))
    return graph.add("PADV2", inputs, shape), VALID


def max_pool2d(
    graph: Graph,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil: bool = False,
) -> Value:
    """See ``torch.nn.functional.max_pool2d``."""
    need(not ceil and pair(dilation) == (1, 1), "such a pooling")
    x = as_floats(graph, as_maps(graph, x))
    windows, strides, pads = pair(kernel), pair(stride or kernel), pair(padding)
    node, mode = _padded(
        graph, x.node, windows, strides, pads, (1, 1), float(np.finfo(np.float32).min)
    )
    return _pooled(graph, x, node, "MAX_POOL_2D", windows, strides, pads, mode)


def _pooled(
    graph: Graph,
    x: Value,
    node: Node,
    code: str,
    windows: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int],
    mode: int,
) -> Value:
    _, c, *sides = x.shape
    size = tuple(
        (n + 2 * p - k) // s + 1 for n, p, k, s in zip(sides, pads, windows, strides, strict=True)
    )
    options = {
        "padding": mode,
        "fused": "NONE",
        "strideH": strides[0],
        "strideW": strides[1],
        "filterHeight": windows[0],
        "filterWidth": windows[1],
    }
    return replace(x, node=graph.add(code, [node], (1, *size, c), options), shape=(1, c, *size))


def avg_pool2d(
    graph: Graph,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Value:
    """See ``torch.nn.functional.avg_pool2d``: a convolution whose weights can be scaled."""
    windows, strides = pair(kernel), pair(stride or kernel)
    need(not ceil and divisor is None and pair(padding) == (0, 0), "such a pooling")
    x = converted(graph, as_maps(graph, x))
    _, c, *sides = x.shape
    size = tuple((n - k) // s + 1 for n, k, s in zip(sides, windows, strides, strict=True))
    weights = np.full((1, *windows, c), 1 / math.prod(windows), np.float32)
    options = {
        "padding": VALID,
        "fused": "NONE",
        "strideH": strides[0],
        "strideW": strides[1],
        "dilationHFactor": 1,
        "dilationWFactor": 1,
        "depthMultiplier": 1,
    }
    node = graph.add(
        "DEPTHWISE_CONV_2D",
        [x.node],
        (1, *size, c),
        options,
        weights=weights,
        bias=np.zeros(c, np.float32),
    )
    return replace(x, node=node, shape=(1, c, *size))
