from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ztw_rl.core.training import (
    N_LOOKS,
    DeadReluWatch,
    are_finite,
    cross_entropy,
    freeze,
    kl_to_teacher,
    minibatches,
    piecewise_rate,
    set_learning_rate,
)
from ztw_rl.rl.networks.early_exit import PixelClassifier, PixelICConfig

SAID = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[0.9, 0.1], [0.5, 0.5]]]).log()
"""(2, 2, 2): two samples, two exits."""


def test_kl_by_hand():
    teacher = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    # Sample 0: exit 0 is off, exit 1 agrees. Sample 1: exit 0 is off, exit 1 agrees.
    first = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    second = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    loss = kl_to_teacher(SAID, teacher.log())
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_the_exits_are_summed_not_averaged():
    teacher = torch.tensor([[0.25, 0.75]]).log()
    one = kl_to_teacher(SAID[:1, :1], teacher)
    both = kl_to_teacher(SAID[:1, [0, 0]], teacher)
    torch.testing.assert_close(both, 2 * one)


def test_kl_is_least_where_the_teacher_is():
    teacher = torch.log_softmax(torch.tensor([[1.0, 0.0, -1.0]]), -1)
    logits = torch.tensor([[[1.0, 0.0, -1.0]]], requires_grad=True)
    loss = kl_to_teacher(torch.log_softmax(logits, -1), teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(logits.grad, torch.zeros(1, 1, 3))


def test_cross_entropy_by_hand():
    loss = cross_entropy(SAID, torch.tensor([1, 0]))
    wanted = -(math.log(0.5) + math.log(0.75) + math.log(0.9) + math.log(0.5)) / 2
    assert loss.item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("progress", "rate"),
    [(0.0, 1e-2), (0.0999, 1e-2), (0.1, 1e-3), (0.7499, 1e-3), (0.75, 1e-4), (1.0, 1e-4)],
)
def test_step_schedule(progress, rate):
    assert piecewise_rate(progress, (1e-2, 1e-3, 1e-4), (0.1, 0.75)) == rate


def test_a_schedule_of_one_rate():
    assert piecewise_rate(0.5, (3.0,), ()) == 3.0


def test_the_rate_reaches_every_group():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([{"params": [a]}, {"params": [b], "lr": 1.0}])
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_minibatches_are_one_shuffled_pass():
    def draw(seed):
        return list(minibatches(10, 4, torch.Generator().manual_seed(seed)))

    parts = draw(0)
    assert [len(part) for part in parts] == [4, 4, 2]
    order = torch.cat(parts).tolist()
    assert sorted(order) == list(range(10))
    assert order != list(range(10))
    assert torch.cat(draw(0)).tolist() == order
    assert torch.cat(draw(1)).tolist() != order


def test_what_is_frozen_stays():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    freeze(net)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert not net(torch.randn(8, 2)).requires_grad
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite(number):
    fine = torch.zeros(2, 3)
    assert are_finite([fine, torch.tensor(1e38)])
    broken = torch.zeros(4)
    broken[2] = number
    assert not are_finite([fine, broken])


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
