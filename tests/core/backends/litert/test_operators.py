"""Every operator on batches of several samples and of one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ztw_rl.core.heads import SDNPool
from ztw_rl.errors import UserError


def maps(channels=3, height=8, width=8):
    return torch.randn(5, channels, height, width)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(3, 4, 3, stride=4),
        nn.Conv2d(3, 4, 3, dilation=2, padding=2),
        nn.Conv2d(3, 6, 3, groups=3, padding=1),
        nn.Conv2d(3, 4, (1, 3), stride=(2, 1)),
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.AvgPool2d(2),
        nn.AvgPool2d((2, 4), stride=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 5)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6()),
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)),
        nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 5)),
        nn.ReLU(),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.SiLU(),
        nn.Hardswish(),
        nn.Hardsigmoid(),
        SDNPool(),
    ],
    ids=str,
)
@pytest.mark.parametrize("height", [8, 10])
def test_layers(same, layer, height):
    torch.manual_seed(0)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    if any(isinstance(each, nn.Linear) for each in layer.modules()):
        height = 8
    same(layer.eval(), maps(height=height))


@pytest.mark.parametrize("gamma", [-0.5, 0.0, 0.5, 0.9999, 1.0, 1.5])
def test_pooling_by_maximum_and_average(same, gamma):
    pool = SDNPool()
    nn.init.constant_(pool.gamma, gamma)
    same(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(32, 4)), maps())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x.flatten(1)[:, :1, None, None],
        lambda x: x * x.mean(dim=[2, 3], keepdim=True),
        lambda x: x - x.amax(dim=1, keepdim=True),
        lambda x: 1 - x / 3,
        lambda x: torch.cat([x, x.relu()], dim=1),
        lambda x: torch.cat([x[:, :1], x[:, 2:]], dim=2),
        lambda x: F.pad(x, (1, 2, 0, 1)),
        lambda x: x[:, :, ::2, 1:],
        lambda x: x.index_select(-1, torch.tensor([0, 0, 7, 3])),
        lambda x: x.sum(dim=1),
        lambda x: x.mean(dim=[2, 3]),
        lambda x: x.permute(0, 3, 1, 2).flatten(2),
        lambda x: x.unsqueeze(1).squeeze(1).view(-1, 24, 8),
        lambda x: torch.maximum(torch.minimum(x, torch.tensor(0.5)), torch.tensor(-math.inf)),
    ],
)
@pytest.mark.parametrize("convolves", [False, True])
def test_functions_of_maps(same, function, convolves):
    torch.manual_seed(0)
    before = nn.Conv2d(3, 3, 3, padding=1) if convolves else nn.Identity()
    same(lambda x: function(before(x)), maps())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.log_softmax(x, dim=-1),
        lambda x: torch.log_softmax(x, dim=-1).exp(),
        lambda x: x.exp().log(),
        lambda x: F.layer_norm(x, (6,), torch.arange(6.0), torch.ones(6)),
        lambda x: F.linear(
            F.layer_norm(x, (6,), torch.arange(6.0), torch.ones(6)), torch.ones(2, 6)
        ),
        lambda x: x.topk(2, dim=-1).values,
        lambda x: torch.cat([x, 2 * x, torch.ones(1, 2).expand(len(x), -1)], dim=1),
        lambda x: torch.matmul(torch.tensor([1.0, 2.0]), torch.stack([x, x.relu()], dim=1)),
        lambda x: torch.matmul(x, torch.arange(12.0).view(6, 2)),
        lambda x: torch.addcmul(torch.ones(6), x, torch.arange(6.0)),
        lambda x: torch.stack([x, x.relu(), 2 * x], dim=1)[:, 1],
        lambda x: x.amax(dim=-1),
    ],
)
def test_functions_of_vectors(same, function):
    same(function, torch.randn(5, 6))


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(84, 8, 4), (20, 4, 2), (21, 8, 4), (20, 3, 2), (20, 4, 4)]
)
@pytest.mark.parametrize("scale", [1 / 255, [0.1, 0.2, 0.3, 0.4]])
def test_bytes(same, size, kernel, stride, scale):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 5, kernel, stride)
    by = torch.tensor(scale).view(-1, 1, 1)
    x = torch.randint(0, 256, (3, 4, size, size), dtype=torch.uint8)
    same(lambda x: conv(x.float() * by), x, atol=1e-3)


def test_blocks_of_bytes_are_moved_once(same):
    """A convolution whose stride divides its window reads blocks of pixels as channels."""
    conv = nn.Conv2d(4, 5, 8, 4)
    x = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    steps = same(lambda x: conv(x.float() / 255).relu(), x, atol=1e-3)
    assert [code for code, _ in steps] == [
        "RESHAPE",
        "TRANSPOSE",
        "RESHAPE",
        "DEQUANTIZE",
        "CONV_2D",
        "TRANSPOSE",
    ]


@pytest.mark.parametrize(("channels", "fused"), [(4, True), (5, False)])
def test_a_layer_of_few_channels_computes_blocks(same, channels, fused):
    """Four channels of 2×2 places fill sixteen lanes; what stays of them is what was there."""
    first, second = nn.Conv2d(4, channels, 8, 4), nn.Conv2d(channels, 3, 4, 2)
    x = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    steps = same(lambda x: second(first(x.float() / 255).relu()), x, atol=1e-4)
    shapes = [shape for code, shape in steps if code == "CONV_2D"]
    assert shapes == ([(1, 10, 10, 16), (1, 9, 9, 3)] if fused else [(1, 20, 20, 5), (1, 9, 9, 3)])
    # Read by others as well, it stays as it is; so where blocks would not fit.

    def read_twice(x):
        y = first(x.float() / 255)
        return torch.cat([second(y).flatten(1), y.flatten(1)], dim=1)

    same(read_twice, x, atol=1e-4)
    same(lambda x: second(first(x.float() / 255)[:, :, :17, :15]), x, atol=1e-4)
    same(lambda x: F.max_pool2d(first(x.float() / 255), 2), x, atol=1e-4)


def test_what_two_read_is_not_fused(same):
    conv = nn.Conv2d(3, 4, 3)
    same(lambda x: (y := conv(x)) + y.relu(), maps())
    same(lambda x: (y := conv(x)) + (y + 1), maps())


def test_a_joint_layer_is_not_fused_with_what_follows(same):
    same(lambda x: torch.cat([x, 2 * x], dim=1).relu(), torch.randn(5, 6))
    same(lambda x: torch.stack([x, -x], dim=1).relu().flatten(1), torch.randn(5, 6))
    same(lambda x: torch.cat([x, -x], dim=1).relu(), maps())


@pytest.mark.parametrize("groups", [2, 4])
def test_scales_before_a_grouped_convolution(same, groups):
    torch.manual_seed(0)
    norm, conv = nn.BatchNorm2d(4).eval(), nn.Conv2d(4, 8, 3, groups=groups)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    same(lambda x: conv(norm(x)), maps(4))


def test_a_normalisation_behind_vectors_of_several(same):
    torch.manual_seed(0)
    linear, norm = nn.Linear(6, 4), nn.BatchNorm1d(4).eval()
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    same(lambda x: norm(linear(x)), torch.randn(5, 6))


def test_softmax_of_something_else(same):
    same(lambda x: torch.log_softmax(x, dim=-1).unsqueeze(-1).exp().squeeze(-1), torch.randn(5, 6))
    same(lambda x: torch.log_softmax(x.view(-1, 2, 3), dim=-1).flatten(1).exp(), torch.randn(5, 6))
    same(lambda x: F.silu(torch.log_softmax(x, dim=-1)).exp(), torch.randn(5, 6))


def test_a_mix_with_what_is_bent_or_the_same(same):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 3, 3, padding=1)
    share = torch.tensor(0.7)
    same(lambda x: torch.lerp(F.max_pool2d(x, 3, 1, 1), F.relu6(conv(x)), share), maps())
    same(lambda x: torch.lerp(y := F.avg_pool2d(x, 2), y, share), maps())


@pytest.mark.parametrize("n", [40, 300])
def test_many_numbers_are_not_added_by_a_matrix(same, n):
    weights = torch.tensor([1.0, 2.0, 0.5])
    steps = same(
        lambda x: F.layer_norm(torch.matmul(weights, torch.stack([x, -x, x], dim=1)), (n,)),
        torch.randn(5, n),
    )
    assert "FULLY_CONNECTED" not in [code for code, _ in steps]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: F.pad(x.view(-1, 1, 2, 3), (1, 1, 0, 0), mode="replicate"),
            "padding of the kind",
        ),
        (lambda x: x.topk(2, largest=False).values, "the smallest of a dimension"),
        (lambda x: x.amax(), "a reduction over the batch"),
        (lambda x: x[0], "a part of the batch"),
        (lambda x: x.long().float(), r"numbers of the type torch\.int64"),
        (lambda x: x.argmax(dim=1).float(), "the operator aten.argmax"),
        (lambda x: x.cumsum(dim=1), r"the operator aten\.cumsum"),
        (lambda x: x.flip(0), r"the operator aten\.flip"),
        (lambda x: x.mean(dim=0, keepdim=True), "a reduction over the batch"),
        (lambda x: x.view(-1), "a view that moves the batch"),
        (lambda x: x / x.exp(), "a quotient of two values"),
    ],
)
def test_what_cannot_be_expressed(same, function, message):
    with pytest.raises(
        UserError, match=rf"LiteRT cannot run {message}.*, in .*; take the format onnx"
    ):
        same(function, torch.randn(3, 6))


def test_the_layer_is_named(same):
    network = nn.Sequential(nn.Flatten(), nn.GLU())
    with pytest.raises(UserError, match=r"aten\.glu.*, in layer function\.1; take the format onnx"):
        same(network, maps())
