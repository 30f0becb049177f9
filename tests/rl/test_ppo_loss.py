from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ztw_rl.rl.ppo_loss import PPOLoss, ppo_loss

RATIOS = torch.tensor([1.5, 1.5, 0.5, 1.0])
"""Of the new to the old probability of the action."""
ADVANTAGES = torch.tensor([1.0, -1.0, -1.0, 1.0])


def loss(**changes: Tensor) -> PPOLoss:
    given = {
        "values": torch.tensor([1.0, 2.0, 3.0, 4.0]),
        "log_prob": RATIOS.log() - 2.0,
        "entropy": torch.tensor([0.5, 0.5, 1.0, 1.0]),
        "old_log_prob": torch.full((4,), -2.0),
        "advantages": ADVANTAGES,
        "returns": torch.tensor([1.0, 2.0, 3.0, 6.0]),
        "clip_range": torch.tensor(0.1),
        **changes,
    }
    return ppo_loss(**given, ent_coef=0.01, vf_coef=0.5)


def test_by_hand():
    found = loss()
    # Normalised, the advantages are divided by sqrt(4 / 3); the first gain is clipped at 1.1, the
    # second loss is not clipped, the third is clipped at 0.9.
    policy = -(1.1 - 1.5 - 0.9 + 1.0) / 4 / math.sqrt(4 / 3)
    assert found.policy.item() == pytest.approx(policy)
    assert found.value.item() == pytest.approx(1.0)
    assert found.entropy.item() == pytest.approx(-0.75)
    assert found.total.item() == pytest.approx(policy - 0.0075 + 0.5)
    # Ratio - 1 - log ratio, of the four.
    kl = (0.5 - math.log(1.5)) * 2 + (-0.5 - math.log(0.5))
    assert found.approx_kl.item() == pytest.approx(kl / 4, rel=1e-5)
    assert found.clip_fraction.item() == 0.75


def test_a_wider_clip_range_clips_nothing():
    found = loss(clip_range=torch.tensor(0.6))
    assert found.policy.item() == pytest.approx(-(1.5 - 1.5 - 0.5 + 1.0) / 4 / math.sqrt(4 / 3))
    assert found.clip_fraction.item() == 0


def test_scale_and_offset_of_the_advantages_do_not_matter():
    torch.testing.assert_close(loss(advantages=5 * ADVANTAGES + 3), loss())


def test_a_single_sample_keeps_its_advantage():
    one = {
        name: torch.tensor([figure])
        for name, figure in {
            "values": 0.0,
            "log_prob": 0.0,
            "entropy": 0.0,
            "old_log_prob": 0.0,
            "advantages": 3.0,
            "returns": 0.0,
        }.items()
    }
    assert loss(**one).policy.item() == -3.0


def test_only_the_total_has_a_gradient_where_it_is_not_clipped():
    log_prob = (RATIOS.log() - 2.0).requires_grad_()
    found = loss(log_prob=log_prob)
    (gradient,) = torch.autograd.grad(found.total, log_prob)
    # Samples 0 and 2 are beyond the clip range on the side that their advantage points to.
    assert (gradient != 0).tolist() == [False, True, False, True]
    assert not found.approx_kl.requires_grad
