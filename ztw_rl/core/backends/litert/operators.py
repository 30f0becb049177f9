"""PyTorch's operators in a LiteRT graph, one function each.

Every function takes a graph and the operator's own arguments, with ``Value`` for a tensor that is
computed and ``Tensor`` for one that never changes, and gives a value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from ztw_rl.core.backends.litert.pointwise import (
    add,
    addcmul,
    div,
    exp,
    hardsigmoid,
    hardswish,
    hardtanh,
    lerp,
    log,
    log_softmax,
    maximum,
    minimum,
    mul,
    neg,
    relu,
    rsub,
    same,
    sigmoid,
    silu,
    sub,
    tanh,
    to_copy,
)
from ztw_rl.core.backends.litert.products import addmm, batch_norm, layer_norm, linear, matmul
from ztw_rl.core.backends.litert.reductions import adaptive_avg_pool2d, amax, mean, sum_, topk
from ztw_rl.core.backends.litert.shapes import (
    cat,
    flatten,
    index_select,
    pad,
    padded,
    permute,
    select,
    slice_,
    squeeze,
    stack,
    unsqueeze,
    view,
)
from ztw_rl.core.backends.litert.windows import avg_pool2d, conv2d, max_pool2d

aten = torch.ops.aten

OPERATORS: dict[Any, Callable[..., Any]] = {
    aten.clone.default: same,
    aten._to_copy.default: to_copy,
    aten.detach.default: same,
    aten.alias.default: same,
    aten.contiguous.default: same,
    aten.dropout.default: same,
    aten.lift_fresh_copy.default: same,
    aten.conv2d.default: conv2d,
    aten.linear.default: linear,
    aten.addmm.default: addmm,
    aten.matmul.default: matmul,
    aten.relu.default: relu,
    aten.tanh.default: tanh,
    aten.sigmoid.default: sigmoid,
    aten.hardtanh.default: hardtanh,
    aten.relu6.default: lambda graph, x: hardtanh(graph, x, 0, 6),
    aten.silu.default: silu,
    aten.hardswish.default: hardswish,
    aten.hardsigmoid.default: hardsigmoid,
    aten.max_pool2d.default: max_pool2d,
    aten.avg_pool2d.default: avg_pool2d,
    aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
    aten.mean.dim: mean,
    aten.sum.dim_IntList: sum_,
    aten.amax.default: amax,
    aten.lerp.Tensor: lerp,
    aten.add.Tensor: add,
    aten.sub.Tensor: sub,
    aten.rsub.Scalar: rsub,
    aten.mul.Tensor: mul,
    aten.neg.default: neg,
    aten.addcmul.default: addcmul,
    aten.div.Tensor: div,
    aten.minimum.default: minimum,
    aten.maximum.default: maximum,
    aten._native_batch_norm_legit_no_training.default: batch_norm,
    aten.layer_norm.default: layer_norm,
    aten.cat.default: cat,
    aten.stack.default: stack,
    aten.unsqueeze.default: unsqueeze,
    aten.squeeze.dim: squeeze,
    aten.squeeze.dims: squeeze,
    aten.select.int: select,
    aten.slice.Tensor: slice_,
    aten.index_select.default: index_select,
    aten.view.default: view,
    aten._unsafe_view.default: view,
    aten.reshape.default: view,
    aten.flatten.using_ints: flatten,
    aten.permute.default: permute,
    aten.constant_pad_nd.default: pad,
    aten.pad.default: padded,
    aten.log_softmax.int: log_softmax,
    aten.exp.default: exp,
    aten.log.default: log,
    aten.topk.default: topk,
    operator.getitem: lambda graph, parts, index: parts[index],
}
"""By PyTorch's overload."""
