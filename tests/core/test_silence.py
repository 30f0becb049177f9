"""Layers that answer 0 to everything, noticed by the gradients that do not pass them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ztw_rl.core.pixel_head import PixelClassifier, PixelICConfig
from ztw_rl.core.silence import SilenceWatch


def layers(bias):
    """Two linear layers with a ReLU between them, of positive weights and inputs."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    for layer in (net[0], net[2]):
        nn.init.ones_(layer.weight)
    nn.init.constant_(net[0].bias, bias)
    return net


def learn(watch, *nets, x=(1.0, 2.0)):
    """One backward pass through each, and a look."""
    for net in nets:
        net.zero_grad()
        net(torch.tensor([x])).sum().backward()
    watch.look()


def test_a_layer_below_its_threshold_is_silent_and_another_is_not():
    alive, dead = layers(0), layers(-4)
    watch = SilenceWatch([alive, dead, alive])
    learn(watch, alive, dead)
    # 1 + 2 − 4 < 0: the ReLU closes, and only the last bias has a gradient.
    assert [bool(p.grad.any()) for p in dead.parameters()] == [False, False, False, True]
    assert watch.silent() == [1]


def test_one_good_minibatch_is_enough():
    net = layers(-4)
    watch = SilenceWatch([net])
    learn(watch, net)
    learn(watch, net, x=(3.0, 2.0))
    learn(watch, net)
    assert watch.silent() == []


def test_looks_before_the_last_question_do_not_count():
    net = layers(-4)
    watch = SilenceWatch([net])
    learn(watch, net, x=(3.0, 2.0))
    assert watch.silent() == []
    learn(watch, net)
    assert watch.silent() == [0]


def test_each_is_told_once():
    early, late = layers(-4), layers(-4)
    watch = SilenceWatch([early, late])
    learn(watch, early)
    learn(watch, late, x=(3.0, 2.0))
    assert watch.silent() == [0]
    learn(watch, early, late)
    assert watch.silent() == [1]


def test_nothing_was_looked_at():
    assert SilenceWatch([layers(-4)]).silent() == []


@pytest.mark.parametrize("how", ["frozen", "unused"])
def test_what_does_not_learn_is_passed_over(how):
    net = layers(-4)
    if how == "frozen":
        learn(SilenceWatch([]), net)
        net.requires_grad_(False)
    watch = SilenceWatch([net])
    watch.look()
    assert watch.silent() == []


def test_a_layer_in_the_midst_of_an_ic_on_pixels():
    torch.manual_seed(0)
    ic = PixelClassifier(PixelICConfig(in_channels=1, in_size=(84, 84), n_classes=2))
    watch = SilenceWatch([ic])
    pixels = torch.rand(4, 1, 84, 84)
    ic(pixels).square().sum().backward()
    watch.look()
    assert watch.silent() == []
    nn.init.constant_(ic.convs[2].bias, -1e3)
    ic.zero_grad()
    ic(pixels).square().sum().backward()
    watch.look()
    # The linear layer's bias still learns, which is why the loss goes on falling.
    assert ic.linear.bias.grad.any()
    assert watch.silent() == [0]
