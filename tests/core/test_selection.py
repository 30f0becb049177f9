from __future__ import annotations

import numpy as np
import pytest

from ztw_rl.core.selection import cheapest, normalized


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
