from __future__ import annotations

import pytest
import torch

from ztw_rl.core.sweep import Curve, sweep
from ztw_rl.supervised.budgets import choose, cross_fitted, point, transferred


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
