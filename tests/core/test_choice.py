from __future__ import annotations

import re

import numpy as np
import pytest

from ztw_rl.core.choice import (
    Budget,
    Choice,
    Costs,
    Forced,
    Keep,
    Patience,
    Risk,
    Threshold,
    Trial,
    Unreachable,
    best_within,
    by_halves,
    cheapest_keeping,
    choose,
    normalized,
    per_exit_thresholds,
)

COSTS = np.array([0.4, 0.6, 0.9])


def trial(scores, costs, full, no_skill=0.0, disagreement=None) -> Trial:
    """Thresholds 0.1, 0.2, …; costs of each, or of each on each unit."""
    scores, costs = np.array(scores, float), np.array(costs, float)
    if costs.ndim == 1:
        costs = np.tile(costs[:, None], len(full))
    return Trial(
        points=tuple(Threshold((t + 1) / 10) for t in range(len(scores))),
        scores=scores,
        costs=Costs(costs, np.ones(costs.shape)),
        full=np.array(full, float),
        no_skill=no_skill,
        unit="games",
        disagreement=None if disagreement is None else np.array(disagreement, float),
    )


def test_points_as_thresholds_of_each_ic():
    assert Threshold(0.5).each(3) == (0.5, 0.5, 0.5)
    assert Threshold((0.5, 0.7)).each(2) == (0.5, 0.7)
    assert Forced(1).each(3) == (2.0, -1.0, 2.0)
    assert [str(p) for p in (Threshold(0.5), Threshold((0.7, 0.2)), Forced(0), Patience(2))] == [
        "threshold 0.5",
        "thresholds 0.2 to 0.7",
        "exit 0 alone",
        "patience 2",
    ]


def test_a_long_game_weighs_more():
    # 10 decisions at 0.2 and 30 at 0.6; then 20 at 1.
    costs = Costs(np.array([[0.2, 0.6, 1.0]]), np.array([[10.0, 30, 20]]))
    assert costs.on(np.array([0, 1])) == pytest.approx([0.5])
    assert costs.on() == pytest.approx([(2 + 18 + 20) / 60])


def test_a_budget_takes_the_best_that_is_cheap_enough():
    assert best_within(np.array([1.0, 3, 5]), COSTS, 0.6) == 1
    assert best_within(np.array([4.0, 3, 5]), COSTS, 0.6) == 0
    assert best_within(np.array([3.0, 3, 5]), COSTS, 0.6) == 1
    assert best_within(np.array([1.0, 3, 5]), COSTS, 0.3) is None


def test_keeping_takes_the_cheapest_that_is_good_enough():
    # Pong from −20 to 20: 95 % of the way is 18.
    returns = np.array([0.0, 18, 20])
    assert cheapest_keeping(returns, 20, COSTS, -20, 0.95) == 1
    assert cheapest_keeping(returns, 20, COSTS, -20, 0.5) == 0
    assert cheapest_keeping(returns, 21, COSTS, -20, 1.0) is None
    equal = np.array([18.0, 18, 20])
    assert cheapest_keeping(equal, 20, np.array([0.4, 0.4, 1.1]), -20, 0.5) == 1


def test_normalized_is_zero_for_no_skill_and_one_for_the_full_model():
    assert [normalized(score, -20, 20) for score in (-20, 0, 20)] == [0, 0.5, 1]


def test_each_half_chooses_for_the_other():
    # The cheap point is good on even units only, the dear one on all.
    found = choose(Keep(0.9), trial([[10, 2, 10, 2], [9, 9, 9, 9]], [0.4, 0.8], [10] * 4))
    assert isinstance(found, Choice)
    assert (found.setting, found.on_all.kept, found.on_all.cost) == (Threshold(0.2), 0.9, 0.8)
    assert found.expected.cost == pytest.approx((0.4 + 0.8) / 2)
    assert found.expected.kept == pytest.approx((0.2 + 0.9) / 2)
    assert found.expected.score == pytest.approx((2 + 9) / 2)


@pytest.mark.parametrize("target", [Keep(0.9), Budget(0.5)])
def test_costs_are_those_of_the_units_that_are_reported_on(target):
    # On even units the first point is cheap, on odd ones the second.
    costs = [[0.2, 0.9, 0.2, 0.9], [0.6, 0.4, 0.6, 0.4]]
    found = choose(target, trial(np.full((2, 4), 10), costs, [10] * 4))
    assert isinstance(found, Choice)
    assert found.expected.cost == pytest.approx((0.9 + 0.6) / 2)


def test_where_a_half_needs_the_full_model_it_stands_in():
    # Good enough on odd units only, and on all together.
    found = choose(Keep(0.9), trial([[8, 10, 8.5, 10]], [0.4], [10] * 4))
    assert isinstance(found, Choice)
    assert found.expected.cost == pytest.approx((1 + 0.4) / 2)
    assert found.expected.kept == pytest.approx((1 + 0.825) / 2)


def test_an_exit_alone_is_a_point_like_others():
    both = Trial(
        points=(Forced(0), Threshold(0.5)),
        scores=np.array([[10.0, 10], [10, 10]]),
        costs=Costs(np.array([[0.3, 0.3], [0.6, 0.6]]), np.ones((2, 2))),
        full=np.array([10.0, 10]),
        no_skill=0.0,
        unit="games",
    )
    found = choose(Keep(0.95), both)
    assert isinstance(found, Choice)
    assert (found.point, found.on_all.cost) == (Forced(0), 0.3)


def test_risk_is_chosen_among_thresholds_alone():
    n = 100
    asked = Trial(
        points=(Forced(0), Threshold(0.5), Threshold(0.9)),
        scores=np.ones((3, n)),
        costs=Costs(np.ones((3, n)), np.ones((3, n))),
        full=np.ones(n),
        no_skill=0.0,
        unit="images",
        disagreement=np.array([[np.nan, 0.3, 0.0]] * n),
    )
    found = choose(Risk(0.05), asked)
    assert isinstance(found, Choice)
    assert (found.point, found.on_all.disagreement) == (Threshold(0.9), 0.0)
    # Half as many show nothing, so what a half would choose cannot be told.
    assert found.expected is None
    assert asked.outcome(0).disagreement is None
    never = choose(Risk(0.01), asked)
    assert isinstance(never, Unreachable)
    assert never.why.startswith(
        "cannot be shown by 100 images: even at threshold 0.9 0.00% of the answers differ, and "
        "337 images without any difference"
    )


def test_the_guarantee_does_not_hang_on_the_units_order():
    """Data sorted by class begins with an easy one, on which a gambler would grow rich."""
    rng = np.random.default_rng(0)
    n, draws, violations = 1000, 200, 0
    for _ in range(draws):
        losses = np.zeros((n, 1))
        # A tenth never differs, the others a little more often than they may.
        losses[n // 10 :, 0] = rng.random(n - n // 10) < 0.05 / 0.9 + 1e-4
        sorted_by_class = Trial(
            points=(Threshold(0.5),),
            scores=np.ones((1, n)),
            costs=Costs(np.ones((1, n)), np.ones((1, n))),
            full=np.ones(n),
            no_skill=0.0,
            unit="images",
            disagreement=losses,
        )
        violations += sorted_by_class.position(Risk(0.05)) == 0
    assert violations / draws <= 0.09


@pytest.mark.parametrize(
    ("target", "changes", "why"),
    [
        (Budget(0.1), {}, "is below the lowest cost, 0.400"),
        (Keep(0.95), {}, r"needs a score of 9.5, .* \(the best has 5\); ask for less"),
        (Keep(0.95), {"costs": [1.04]}, "needs a score of 9.5, and nothing has it"),
        (Keep(0.95), {"no_skill": None}, "what no skill scores is not known"),
        (Keep(0.95), {"no_skill": 10}, "nothing to keep"),
        (Risk(0.1), {}, "the full model was not asked"),
    ],
)
def test_why_a_target_cannot_be_reached(target, changes, why):
    settings = {"scores": [[5, 5]], "costs": [0.4], "full": [10, 10], **changes}
    found = choose(target, trial(**settings))
    assert isinstance(found, Unreachable)
    assert re.search(why, found.why)


def test_what_is_not_known_is_not_told():
    found = choose(Budget(0.5), trial([[5]], [0.4], [10], no_skill=None))
    assert isinstance(found, Choice)
    # One unit has no halves.
    assert (found.on_all.score, found.on_all.kept, found.expected) == (5, None, None)
    patient = Choice(Patience(2), found.on_all, None)
    with pytest.raises(TypeError, match="not by patience"):
        _ = patient.point


def test_halves_are_the_even_and_the_odd():
    chosen = by_halves(lambda units: units.tolist(), 5)
    assert [(own, other.tolist()) for own, other in chosen] == [
        ([0, 2, 4], [1, 3]),
        ([1, 3], [0, 2, 4]),
    ]
    with pytest.raises(ValueError, match="at least two"):
        by_halves(len, 1)


CANDIDATES = (0.25, 0.5, 0.75, 1.0)


@pytest.fixture
def drawn():
    """Exit 0 is right whenever it is surer than 0.5; exit 1 never is, however sure."""
    confidences = np.random.default_rng(0).random((2000, 2))
    right = [confidences[:, 0] > 0.5, np.zeros(2000, bool), np.ones(2000, bool)]
    return confidences, np.stack(right, axis=1)


def test_thresholds_per_exit_beat_a_common_one(drawn):
    chosen = per_exit_thresholds(*drawn, (0.2, 0.5, 1.0), (0.75, 0.75), CANDIDATES, 0.7)
    assert chosen == (0.5, 1.0)


def test_it_is_no_less_accurate_than_where_it_starts(drawn):
    """Nothing that is tried is affordable."""
    assert per_exit_thresholds(*drawn, (0.2, 0.5, 1.0), (-1.0, 2.0), (2.0,), 0.2) == (-1.0, 2.0)
