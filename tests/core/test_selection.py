from __future__ import annotations

import numpy as np
import pytest

from ztw_rl.core.selection import Costs, cross_fit, keeping, normalized, within

COSTS = np.array([0.4, 0.6, 0.9])


def same_in_all(costs, n):
    """Costs that do not depend on the seed."""
    return Costs(np.tile(np.array(costs)[:, None], n), np.ones((len(costs), n)))


def cheapest(scores, costs, full, random, keep):
    return cross_fit(keeping(random, keep), scores, same_in_all(costs, len(full)), full, random)


def test_a_long_game_weighs_more():
    # 10 decisions at 0.2 and 30 at 0.6; then 20 at 1.
    costs = Costs(np.array([[0.2, 0.6, 1.0]]), np.array([[10, 30, 20]]))
    assert costs.on(np.array([0, 1])) == pytest.approx([0.5])
    assert costs.on() == pytest.approx([(2 + 18 + 20) / 60])


def test_within_takes_the_best_that_is_cheap_enough():
    choose = within(0.6)
    assert choose(np.array([1.0, 3, 5]), 5, COSTS) == 1
    assert choose(np.array([4.0, 3, 5]), 5, COSTS) == 0
    assert choose(np.array([3.0, 3, 5]), 5, COSTS) == 1
    assert within(0.3)(np.array([1.0, 3, 5]), 5, COSTS) is None


def test_keeping_takes_the_cheapest_that_is_good_enough():
    # Pong from −20 to 20: 95 % of the way is 18.
    returns = np.array([0.0, 18, 20])
    assert keeping(-20, 0.95)(returns, 20, COSTS) == 1
    assert keeping(-20, 0.5)(returns, 20, COSTS) == 0
    assert keeping(-20, 1.0)(returns, 21, COSTS) is None
    assert keeping(-20, 0.5)(np.array([18.0, 18, 20]), 20, np.array([0.4, 0.4, 1.1])) == 1
    with pytest.raises(ValueError, match="no better than random"):
        keeping(21, 0.5)(returns, 20, COSTS)


def test_normalized_is_zero_for_random_and_one_for_full():
    assert normalized(-20, -20, 20) == 0
    assert normalized(20, -20, 20) == 1
    assert normalized(0, -20, 20) == 0.5


def test_each_half_chooses_for_the_other():
    full = np.array([10.0, 10, 10, 10])
    # The cheap setting is good on even seeds only, the dear one on all.
    scores = np.array([[10.0, 2, 10, 2], [9.0, 9, 9, 9]])
    found = cheapest(scores, np.array([0.4, 0.8]), full, random=0, keep=0.9)
    assert found.chosen == (0, 1)
    assert found.cost == pytest.approx((0.4 + 0.8) / 2)
    assert found.kept == pytest.approx((0.2 + 0.9) / 2)


def test_costs_are_those_of_the_games_that_are_reported_on():
    scores, full = np.full((2, 4), 10.0), np.full(4, 10.0)
    # On even seeds the first setting is cheap, on odd ones the second.
    costs = Costs(np.array([[0.2, 0.9, 0.2, 0.9], [0.6, 0.4, 0.6, 0.4]]), np.ones((2, 4)))
    found = cross_fit(keeping(0, 0.9), scores, costs, full, 0)
    assert found.chosen == (0, 1)
    assert found.cost == pytest.approx((0.9 + 0.6) / 2)
    # Within 0.5, too, each half trusts what is dear on the other.
    assert cross_fit(within(0.5), scores, costs, full, 0) == found


def test_the_full_model_stands_in_where_nothing_is_good_enough():
    full = np.array([10.0, 10])
    found = cheapest(np.array([[1.0, 1]]), np.array([0.4]), full, random=0, keep=0.95)
    assert found.chosen == (None, None)
    assert (found.cost, found.kept) == (1.0, 1.0)


def test_a_setting_dearer_than_the_full_model_is_never_chosen():
    full = np.array([10.0, 10])
    found = cheapest(np.array([[10.0, 10]]), np.array([1.04]), full, random=0, keep=0.95)
    assert found.chosen == (None, None)


@pytest.mark.parametrize(
    ("full", "message"), [([5.0], "two seeds"), ([1.0, -3.0], "no better than random")]
)
def test_what_cannot_be_judged(full, message):
    with pytest.raises(ValueError, match=message):
        cheapest(np.zeros((1, len(full))), np.array([0.4]), np.array(full), random=0, keep=0.95)
