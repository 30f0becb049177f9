from __future__ import annotations

import pytest

from ztw_rl.rl.starts import group_by_start

STARTS = (1, 2, 3, 4, 5, 6, 8)
RETURNS = (10.0, 0.0, 12.0, 1.0, 14.0, 2.0, 3.0)


def test_games_by_parity_and_by_what_the_frame_skip_keeps():
    by_parity, by_skip = group_by_start(STARTS, RETURNS, frame_skip=4)
    assert (by_parity.modulus, by_skip.modulus) == (2, 4)
    assert by_parity.returns == {0: (0.0, 1.0, 2.0, 3.0), 1: (10.0, 12.0, 14.0)}
    assert by_parity.means() == {0: 1.5, 1: 12.0}
    assert by_skip.returns == {0: (1.0, 3.0), 1: (10.0, 14.0), 2: (0.0, 2.0), 3: (12.0,)}


@pytest.mark.parametrize(("frame_skip", "moduli"), [(1, [2]), (2, [2]), (3, [2, 3])])
def test_no_grouping_twice_and_none_by_one(frame_skip, moduli):
    assert [g.modulus for g in group_by_start(STARTS, RETURNS, frame_skip)] == moduli


def test_eight_games_a_group_are_needed():
    odd, even = [1] * 8, [2] * 8
    (enough,) = group_by_start(odd + even, [1.0] * 8 + [0.0] * 8, frame_skip=2)
    assert enough.p == pytest.approx(2 / 12870, abs=4e-4)
    (few,) = group_by_start(odd + even[1:], [1.0] * 8 + [0.0] * 7, frame_skip=2)
    assert few.p is None
    (alone,) = group_by_start(odd, [1.0] * 8, frame_skip=2)
    assert alone.p is None
