from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ztw_rl.core.heads import Bins, Connection, MapClassifier, MapConfig, SDNPool, plain_bins


def pooled(gamma: float, x: torch.Tensor) -> torch.Tensor:
    pool = SDNPool()
    with torch.no_grad():
        pool.gamma.fill_(gamma)
        return pool(x)


def ic(cascade: bool = True, **settings) -> MapClassifier:
    config = MapConfig(in_channels=2, in_size=(6, 6), out_channels=2)
    return MapClassifier(config, Connection(3, cascade=cascade, **settings))


def test_pooling_by_hand():
    x = torch.arange(25.0).view(1, 1, 5, 5)
    # Windows of 2×2, one apart: of (0, 1, 5, 6) the mean is 3 and the maximum 6.
    rows = torch.arange(4.0).view(4, 1) * 5 + torch.arange(4.0)
    torch.testing.assert_close(pooled(1.0, x)[0, 0], rows + 3)
    torch.testing.assert_close(pooled(0.0, x)[0, 0], rows + 6)
    torch.testing.assert_close(pooled(0.25, x)[0, 0], rows + 0.25 * 3 + 0.75 * 6)


def test_a_new_pool_weighs_average_and_maximum_alike_and_learns():
    pool = SDNPool()
    x = torch.arange(64.0).view(1, 1, 8, 8)
    y = pool(x)
    # Windows of 2×2, two apart: of (0, 1, 8, 9) the mean is 4.5 and the maximum 9.
    assert y[0, 0, 0, 0].item() == 6.75
    y.sum().backward()
    # d/dγ = Σ (average − maximum) over 16 windows.
    assert pool.gamma.grad == pytest.approx(16 * -4.5)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_pooling_is_adaptive_pooling_at_every_size(gamma):
    generator = torch.Generator().manual_seed(0)
    for height in range(4, 25):
        for width in (4, 5, 6, 7, 8, 11, 12, 16, 20):
            x = torch.randn(2, 3, height, width, generator=generator)
            wanted = gamma * F.adaptive_avg_pool2d(x, 4) + (1 - gamma) * F.adaptive_max_pool2d(x, 4)
            torch.testing.assert_close(pooled(gamma, x), wanted, msg=f"{height}×{width}")


@pytest.mark.parametrize(
    ("size", "bins"),
    [
        (4, Bins(1, 1)),
        (5, Bins(2, 1)),
        (6, Bins(2, 2, (0, 1, 1, 2, 3, 4, 4, 5))),
        (7, None),
        (8, Bins(2, 2)),
        (9, Bins(3, 2)),
        (10, Bins(3, 3, (0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 9))),
        (20, Bins(5, 5)),
    ],
)
def test_the_plain_pooling_that_adaptive_pooling_amounts_to(size, bins):
    assert plain_bins(size) == bins


def test_small_axes_pass_through():
    x = torch.randn(2, 3, 4, 2)
    assert torch.equal(pooled(0.3, x), x)
    wide = torch.randn(2, 3, 2, 8)
    assert SDNPool.output_size(2, 8) == (2, 4)
    pairs = wide.view(2, 3, 2, 4, 2)
    wanted = 0.3 * pairs.mean(-1) + 0.7 * pairs.amax(-1)
    torch.testing.assert_close(pooled(0.3, wide), wanted)


@pytest.mark.parametrize(("size", "after"), [(20, 5), (9, 2), (7, 2), (84, 21)])
def test_the_convolutions_size(size, after):
    config = MapConfig(in_channels=1, in_size=(size, size), out_channels=1, stride=4, padding=0)
    assert config.conv_size == (after, after)
    conv = nn.Conv2d(1, 1, 3, stride=4)
    assert conv(torch.zeros(1, 1, size, size)).shape[-2:] == (after, after)


def test_an_ic_by_hand():
    config = MapConfig(in_channels=1, in_size=(3, 3), out_channels=1, padding=0)
    head = MapClassifier(config, Connection(2, cascade=True, layer_norm=True))
    with torch.no_grad():
        head.conv.weight.fill_(1)
        head.conv.bias.fill_(-5)
        head.linear.weight.copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]]))
        head.linear.bias.copy_(torch.tensor([0.5, 0.0]))
        # Nine ones minus 5 leave 4; of nine zeros minus 5 the ReLU leaves 0.
        features = torch.stack([torch.ones(1, 3, 3), torch.zeros(1, 3, 3)])
        # (1, 3) normalised is (−1, 1), up to LayerNorm's ε.
        logits = head(features, torch.tensor([[1.0, 3.0], [3.0, 1.0]]))
    wanted = torch.tensor([[4 - 2 + 0.5, 3.0], [2 + 0.5, -3.0]])
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)


def test_without_layer_norm_the_logits_come_as_they_are():
    head = ic()
    features = torch.zeros(1, 2, 6, 6)
    with torch.no_grad():
        nothing = head(features, torch.zeros(1, 3))
        some = head(features, torch.tensor([[1.0, 0.0, 2.0]]))
        wanted = head.linear.weight[:, -3] + 2 * head.linear.weight[:, -1]
    torch.testing.assert_close((some - nothing)[0], wanted)


@pytest.mark.parametrize("stop_gradient", [True, False])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_the_cascades_gradient_is_stopped_on_demand(stop_gradient, layer_norm):
    previous = torch.randn(4, 3, requires_grad=True)
    features = torch.randn(4, 2, 6, 6, requires_grad=True)
    head = ic(stop_gradient=stop_gradient, layer_norm=layer_norm)
    head(features, previous).square().sum().backward()
    assert features.grad.any()
    assert head.linear.weight.grad[:, -3:].any()
    if stop_gradient:
        assert previous.grad is None
    else:
        assert previous.grad.any()


def test_a_cascading_ic_needs_its_predecessor():
    with pytest.raises(ValueError, match="predecessor"):
        ic()(torch.zeros(1, 2, 6, 6))


def test_a_plain_ic_ignores_its_predecessor():
    head, features = ic(cascade=False), torch.randn(2, 2, 6, 6)
    assert torch.equal(head(features), head(features, torch.randn(2, 3)))


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [((20, 20), 4, 0), ((9, 9), 4, 0), ((7, 7), 4, 0), ((8, 6), 1, 1), ((9, 5), 2, 1)],
)
def test_kept_patches_give_the_same_logits_and_gradients(size, stride, padding):
    config = MapConfig(3, size, 5, stride=stride, padding=padding)
    head = MapClassifier(config, Connection(4, layer_norm=True))
    features, previous = torch.randn(6, 3, *size), torch.randn(6, 4)
    for x in (features, features.to(memory_format=torch.channels_last)):
        gradients = []
        for logits in (head(x, previous), head.from_kept(head.keep(x), previous)):
            head.zero_grad()
            logits.square().sum().backward()
            gradients.append([p.grad for p in head.parameters()])
        torch.testing.assert_close(head.from_kept(head.keep(x), previous), head(x, previous))
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
