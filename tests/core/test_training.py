from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ztw_rl.core.training import (
    are_finite,
    cross_entropy,
    freeze,
    kl_to_teacher,
    minibatches,
    piecewise_rate,
    set_learning_rate,
)

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
