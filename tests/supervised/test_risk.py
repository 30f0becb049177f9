from __future__ import annotations

import torch

from ztw_rl.core.exits import Confidence, select
from ztw_rl.supervised.evaluate import Answers
from ztw_rl.supervised.risk import controlled_threshold


def answers(n: int) -> Answers:
    """Exit 0 contradicts the last exit as often as its confidence p says: in 1 − p of cases."""
    generator = torch.Generator().manual_seed(0)
    p = 0.5 + torch.rand(n, generator=generator) / 2
    agrees = torch.rand(n, generator=generator) < p
    first = torch.stack([p, 1 - p], dim=1)
    first = torch.where(agrees.unsqueeze(1), first, first.flip(1))
    last = torch.tensor([0.9, 0.1]).expand(n, 2)
    labels = torch.zeros(n, dtype=torch.int64)
    return Answers(torch.stack([first, last], dim=1).log(), labels, labels)


def risk_at(drawn: Answers, threshold: float) -> float:
    """Share of other images whose label changes, by the exit rule that runs online."""
    _, by = select(drawn.log_probs, Confidence.uniform(threshold, 2))
    said = drawn.log_probs[torch.arange(len(by)), by].argmax(dim=-1)
    return (said != drawn.backbone).double().mean().item()


def test_the_threshold_keeps_the_risk_and_hardly_more():
    drawn = answers(20_000)
    # Of those above τ, a share of (1 − τ)/2 is wrong; they are 2·(1 − τ): (1 − τ)² is the risk.
    threshold = controlled_threshold(drawn, risk=0.04)
    assert threshold is not None
    assert 0.8 <= threshold < 0.83
    assert risk_at(drawn, threshold) <= 0.04


def test_too_few_images_show_nothing():
    assert controlled_threshold(answers(20), risk=0.04) is None


def test_a_broken_answer_counts_as_the_last_exits():
    drawn = answers(2000)
    drawn.log_probs[:, 0] = torch.nan
    assert controlled_threshold(drawn, risk=0.04) == 0.0
