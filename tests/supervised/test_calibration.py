from __future__ import annotations

import numpy as np
import pytest
import torch

from ztw_rl.errors import UserError
from ztw_rl.supervised import calibration
from ztw_rl.supervised.evaluate import Answers

COSTS = (0.2, 0.6, 1.1)


def answers(first: list[float], right: list[list[int]]) -> Answers:
    """Two classes; exit 0 as sure as ``first`` says, exit 1 never, the backbone right or wrong."""
    confidence = torch.tensor(first)
    sure = torch.stack([confidence, torch.full_like(confidence, 0.5), torch.ones(len(first))], 1)
    good = torch.tensor(right).bool()
    p = torch.where(good, sure, 1 - sure)
    log_probs = torch.stack([p, 1 - p], dim=-1).clamp_min(1e-9).log()
    zeros = torch.zeros(len(first), dtype=torch.int64)
    return Answers(log_probs, (~good[:, -1]).long(), zeros)


FOUR = answers([0.9, 0.8, 0.7, 0.6], [[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 1, 0]])


def test_worth_by_hand():
    # Images 0 and 1 leave at exit 0; 2 goes to the end, and so does 3, where the backbone errs.
    found = calibration.worth(FOUR, 0.75, COSTS)
    assert (found.accuracy, found.cost, found.disagreement) == pytest.approx((0.75, 0.65, 0))
    # Image 2 too leaves at exit 0, and is wrong there.
    found = calibration.worth(FOUR, (0.65, 0.9), COSTS)
    assert (found.accuracy, found.cost, found.disagreement) == pytest.approx((0.5, 0.425, 0.25))


def test_a_budget_takes_the_largest_threshold_within_it():
    threshold = calibration.within(0.65, COSTS)(FOUR)
    assert 0.799 < threshold <= 0.8
    assert calibration.worth(FOUR, threshold, COSTS).cost == pytest.approx(0.65)
    with pytest.raises(UserError, match=r"--budget 0\.1 is below the lowest cost, 0\."):
        calibration.within(0.1, COSTS)(FOUR)


def test_keeping_takes_the_cheapest_threshold():
    threshold = calibration.keeping(1.0, COSTS)(FOUR)
    assert calibration.worth(FOUR, threshold, COSTS).accuracy == 0.75
    # Of equally cheap ones the largest.
    assert 0.799 < threshold <= 0.8
    with pytest.raises(UserError, match=r"--keep 1\.5 needs an accuracy of 112\.50%"):
        calibration.keeping(1.5, COSTS)(FOUR)
    hopeless = answers([0.9], [[0, 0, 0]])
    with pytest.raises(UserError, match="gets no image right"):
        calibration.keeping(0.5, COSTS)(hopeless)


def test_risk_without_enough_images():
    with pytest.raises(UserError, match=r"^4 images cannot show .* 149 images without any"):
        calibration.controlling(0.02, 0.95)(FOUR)


def random_answers(seed: int, n: int) -> Answers:
    """Exit 0 errs more the less sure it is; exit 1 is as good as a coin, but sure of itself."""
    rng = np.random.default_rng(seed)
    first = rng.uniform(0.5, 1, n)
    right = np.stack([rng.random(n) < first, rng.random(n) < 0.5, np.ones(n, bool)], axis=1)
    sure = np.stack([first, rng.uniform(0.9, 1, n), np.full(n, 0.999)], axis=1)
    p = torch.from_numpy(np.where(right, sure, 1 - sure)).float()
    zeros = torch.zeros(n, dtype=torch.int64)
    return Answers(torch.stack([p, 1 - p], dim=-1).log(), zeros, zeros)


def test_a_threshold_for_each_exit_beats_a_common_one_on_other_images():
    here, there = random_answers(0, 2000), random_answers(1, 2000)
    common, own = (
        calibration.worth(there, rule(0.8, COSTS)(here), COSTS)
        for rule in (calibration.within, calibration.within_per_exit)
    )
    assert own.accuracy > common.accuracy + 0.02
    assert own.cost < 0.82


def test_cross_fitting_chooses_on_one_half_and_reports_on_the_other():
    drawn = random_answers(0, 101)
    seen = []

    def rule(given: Answers) -> float:
        seen.append(given)
        return 0.7

    found = calibration.cross_fitted(rule, drawn, COSTS)
    assert sorted(len(given) for given in seen) == [50, 51]
    whole = calibration.worth(drawn, 0.7, COSTS)
    assert found is not None
    assert vars(found) == pytest.approx(vars(whole))

    def none(given: Answers) -> float:
        raise UserError("none")

    assert calibration.cross_fitted(none, drawn, COSTS) is None
