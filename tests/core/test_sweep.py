from __future__ import annotations

import pytest
import torch

from ztw_rl.core.exits import Exceeds, Patience, last, most_confident, select
from ztw_rl.core.sweep import (
    Curve,
    agreements,
    confidences,
    even_thresholds,
    patience_thresholds,
    sweep,
)
from ztw_rl.errors import UserError

COSTS = torch.tensor([0.2, 0.5, 0.9, 1.3], dtype=torch.float64)


@pytest.fixture
def answers() -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 4, C) log-probabilities and labels; the second sample is broken at one exit."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(200, 4, 3, generator=generator)
    logits[1, 1, 0] = torch.nan
    return torch.log_softmax(logits, dim=-1), torch.randint(3, (200,), generator=generator)


def brute_force(log_probs, labels, rule, fallback) -> tuple[float, float]:
    left_at, by = select(log_probs, rule, fallback)
    said = log_probs.argmax(dim=-1).gather(1, by.unsqueeze(1)).squeeze(1)
    return (said == labels).double().mean().item(), COSTS[left_at].mean().item()


def swept(log_probs, labels, scores, thresholds, fallback) -> Curve:
    right = log_probs.argmax(dim=-1) == labels.unsqueeze(1)
    at_end = right.gather(1, fallback(log_probs).unsqueeze(1)).squeeze(1)
    return sweep(scores, right[:, :-1], COSTS, thresholds, at_end)


@pytest.mark.parametrize("fallback", [last, most_confident])
def test_confidence_sweep_equals_brute_force(answers, fallback):
    log_probs, labels = answers
    scores = confidences(log_probs)
    # Thresholds that equal a confidence exactly are the ones that could go wrong.
    own = scores[scores.isfinite()][:60]
    thresholds = torch.cat([even_thresholds(scores, 100), own, torch.tensor([0.0])]).sort().values
    curve = swept(log_probs, labels, scores, thresholds, fallback)
    for i, threshold in enumerate(thresholds):
        expected = brute_force(log_probs, labels, Exceeds(threshold.repeat(3)), fallback)
        found = curve.accuracy[i].item(), curve.relative_macs[i].item()
        assert found == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(curve.shares.sum(dim=1), torch.ones(len(thresholds)).double())


def test_patience_sweep_equals_brute_force(answers):
    log_probs, labels = answers
    curve = swept(log_probs, labels, agreements(log_probs), patience_thresholds(4), last)
    for i in range(4):
        rule = Patience(torch.tensor(i + 1))
        expected = brute_force(log_probs, labels, rule, last)
        found = curve.accuracy[i].item(), curve.relative_macs[i].item()
        assert found == pytest.approx(expected, abs=1e-12)


def test_thresholds_reach_from_the_lowest_confidence_to_one(answers):
    scores = confidences(answers[0])
    thresholds = even_thresholds(scores)
    assert len(thresholds) == 1000
    assert thresholds[0] == scores[scores.isfinite()].min()
    assert thresholds[-1] == 1


def test_a_backbone_without_ics_is_one_point_at_every_threshold():
    """Two samples of three are right at its head, which costs what it costs."""
    log_probs = torch.log_softmax(torch.randn(3, 1, 4), dim=-1)
    nothing = torch.zeros(3, 0, dtype=torch.bool)
    at_end = torch.tensor([True, False, True])
    costs, thresholds = torch.tensor([1.0]), torch.tensor([0.3, 0.9])
    for scores in (confidences(log_probs), agreements(log_probs)):
        assert scores.shape == (3, 0)
        curve = sweep(scores, nothing, costs, thresholds, at_end)
        assert curve.shares.tolist() == [[1], [1]]
        assert curve.accuracy.tolist() == pytest.approx([2 / 3, 2 / 3])


def test_confidences_that_are_all_broken():
    broken = confidences(torch.full((3, 2, 4), torch.nan))
    with pytest.raises(UserError, match=r"no confidence is a number: .* train them again"):
        even_thresholds(broken)
