from __future__ import annotations

import pytest
import torch

from ztw_rl.core.exits import Confidence, Patience, last, most_confident, select
from ztw_rl.core.sweep import (
    Curve,
    agreements,
    confidences,
    even_thresholds,
    patience_thresholds,
    sweep,
)
from ztw_rl.errors import UserError
from ztw_rl.supervised.budgets import choose, cross_fitted, point, transferred

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
        expected = brute_force(log_probs, labels, Confidence(threshold.repeat(3)), fallback)
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


def hand_worked() -> tuple[torch.Tensor, torch.Tensor]:
    """Two ICs and a head at costs .2, .5, 1; four samples."""
    scores = torch.tensor([[0.9, 0.9], [0.6, 0.8], [0.5, 0.6], [0.3, 0.4]])
    right = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1]]).bool()
    return scores, right


def curve_of(index, thresholds) -> Curve:
    scores, right = hand_worked()
    thresholds = torch.tensor([0.2, 0.45, 0.7, 0.95]) if thresholds is None else thresholds
    costs = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    return sweep(scores[index], right[index, :2], costs, thresholds, right[index, 2])


def test_budgets_against_a_hand_worked_case():
    # τ = 0.2: all leave at exit 0, cost 0.2, 1 of 4 right.
    # τ = 0.45: the last goes to the end: (0.2 * 3 + 1) / 4 = 0.4, 2 right.
    # τ = 0.7: exits 0, 1, 2, 2: (0.2 + 0.5 + 1 + 1) / 4 = 0.675, all right.
    # τ = 0.95: all go to the end.
    curve = curve_of(torch.arange(4), None)
    assert curve.relative_macs.tolist() == pytest.approx([0.2, 0.4, 0.675, 1.0])
    assert curve.accuracy.tolist() == pytest.approx([0.25, 0.5, 1.0, 1.0])
    assert [choose(curve, b) for b in (0.1, 0.2, 0.5, 0.75, 1.0)] == [None, 0, 1, 2, 3]
    assert choose(curve, "max") == 2
    cell = point(curve, 0.75)
    assert (cell.threshold, cell.relative_macs) == pytest.approx((0.7, 0.675))
    assert point(curve, 0.1).accuracy is None


def test_a_threshold_is_reported_on_other_data_than_it_is_chosen_on():
    chosen_on = curve_of(torch.tensor([0, 1]), None)
    # On the first two, τ = 0.7 costs 0.35; on the last two it costs 1.
    assert choose(chosen_on, 0.5) == 2
    cell = transferred(chosen_on, 0.5, lambda t: curve_of(torch.tensor([2, 3]), t))
    assert (cell.threshold, cell.relative_macs, cell.accuracy) == pytest.approx((0.7, 1.0, 1.0))


def test_cross_fitting_averages_both_directions():
    n = 4
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    halves = order[:2], order[2:]
    cells = [
        transferred(curve_of(a, None), 0.75, lambda t, b=b: curve_of(b, t))
        for a, b in (halves, halves[::-1])
    ]
    cell = cross_fitted(curve_of, n, 0.75)
    assert cell.accuracy == pytest.approx(sum(c.accuracy for c in cells) / 2)
    assert cell.relative_macs == pytest.approx(sum(c.relative_macs for c in cells) / 2)
    assert cross_fitted(curve_of, n, 0.1).accuracy is None


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
