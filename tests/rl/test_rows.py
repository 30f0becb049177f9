from __future__ import annotations

import numpy as np
import pytest

from ztw_rl.core.choice import Forced, Patience, Threshold
from ztw_rl.rl.rows import Full, RandomExits, Row, Student, stored


@pytest.mark.parametrize(
    ("who", "rule", "threshold"),
    [
        (Threshold(0.5), "confidence", 0.5),
        (Patience(2), "patience", 2.0),
        (Forced(1), "forced", 1.0),
        (RandomExits((0.5, 0.5), Threshold(0.3)), "random", 0.3),
        (RandomExits((0.5, 0.5), Patience(3)), "random", 3.0),
        (Full(), "backbone", None),
        (Student(), "student", None),
    ],
)
def test_how_a_row_is_stored(who, rule, threshold):
    assert (Row(who).rule, Row(who).threshold) == (rule, threshold)
    beside = (
        "patience" if who in (Patience(2), RandomExits((0.5, 0.5), Patience(3))) else "confidence"
    )
    assert stored(rule, threshold, beside, (0.5, 0.5)) == who


def test_shares_are_cumulated_up_to_one():
    np.testing.assert_allclose(RandomExits((1, 1, 2), Threshold(0.5)).cumulated, [0.25, 0.5, 1])
