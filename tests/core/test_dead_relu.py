"""Layers that answer 0 to everything, noticed by the gradients that do not pass them."""

from __future__ import annotations

import torch
from torch import nn

from ztw_rl.core.dead_relu import N_LOOKS, DeadReluWatch
from ztw_rl.rl.pixel_head import PixelClassifier, PixelICConfig

OPEN = (3.0, 2.0)
CLOSED = (1.0, 2.0)


def layers(bias=-4):
    """linear → ReLU → linear, all weights 1: open if the inputs exceed −bias together."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    for layer in (net[0], net[2]):
        nn.init.ones_(layer.weight)
    nn.init.constant_(net[0].bias, bias)
    return net


def learn(net, x=CLOSED):
    """One backward pass."""
    net.zero_grad()
    net(torch.tensor([x])).sum().backward()


def look(watch, times=1):
    """All that it tells in so many looks."""
    return [m for _ in range(times) for m in watch.look()]


def test_a_layer_below_its_threshold_is_silent_and_another_is_not():
    alive, dead = layers(0), layers()
    learn(alive)
    learn(dead)
    # 1 + 2 − 4 < 0: the ReLU closes, and only the last bias has a gradient.
    assert [bool(p.grad.any()) for p in dead.parameters()] == [False, False, False, True]
    watch = DeadReluWatch([alive, dead, alive])
    assert look(watch, N_LOOKS - 1) == []
    assert look(watch) == [1]


def test_one_good_minibatch_begins_the_count_anew():
    net = layers()
    watch = DeadReluWatch([net])
    learn(net)
    assert look(watch, N_LOOKS - 1) == []
    learn(net, OPEN)
    assert look(watch) == []
    learn(net)
    assert look(watch, N_LOOKS - 1) == []
    assert look(watch) == [0]


def test_each_is_told_once():
    early, late = layers(), layers()
    watch = DeadReluWatch([late, early])
    learn(early)
    learn(late, OPEN)
    assert look(watch, 2 * N_LOOKS) == [1]
    learn(late)
    assert look(watch, 2 * N_LOOKS) == [0]


def test_nothing_left_to_learn_is_no_silence():
    net = layers()
    learn(net)
    for parameter in net.parameters():
        parameter.grad.zero_()
    assert look(DeadReluWatch([net]), N_LOOKS) == []


def test_what_does_not_learn_is_passed_over():
    fresh, frozen = layers(), layers()
    learn(frozen)
    frozen.requires_grad_(False)
    assert look(DeadReluWatch([fresh, frozen]), N_LOOKS) == []


def test_a_layer_in_the_midst_of_an_ic_on_pixels():
    torch.manual_seed(0)
    ic = PixelClassifier(PixelICConfig(in_channels=1, in_size=(84, 84), n_classes=2))
    pixels = torch.rand(4, 1, 84, 84)
    ic(pixels).square().sum().backward()
    assert look(DeadReluWatch([ic]), N_LOOKS) == []
    nn.init.constant_(ic.convs[2].bias, -1e3)
    ic.zero_grad()
    ic(pixels).square().sum().backward()
    # The linear layer's bias still learns, which is why the loss goes on falling.
    assert ic.linear.bias.grad.any()
    assert look(DeadReluWatch([ic]), N_LOOKS) == [0]
