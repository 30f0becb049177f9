from __future__ import annotations

import numpy as np

from ztw_rl.commands._games import few_distinct_lines, start_group_lines
from ztw_rl.rl.starts import group_by_start


def test_games_that_hardly_differ():
    same, other = (5, 9), (7, 9)
    (line,) = few_distinct_lines([same, same, same, other], "length", is_sticky=True)
    assert line.startswith("only 2 of the full policy's 4 games differ in length: if sticky ")
    (line,) = few_distinct_lines([same, same, same, other], "length", is_sticky=False)
    assert line.startswith("only 2 of the full policy's 4 games differ in length: intervals say ")
    assert few_distinct_lines([same, same, other, (7, 8)], "length", is_sticky=True) == []


PONG_STARTS = (
    *(16, 12, 13, 16, 29, 6, 26, 2, 26, 1, 23, 5, 4, 23, 15, 25, 6, 8, 19, 2),
    *(17, 1, 6, 15, 28, 26, 9, 12, 21, 25, 19, 8, 25, 7, 1, 13, 21, 28, 11, 16),
)
PONG_RETURNS = (
    *(-17, -19, 20, -18, 20, -18, -20, -16, -19, 19, 15, 20, -18, 14, 17, 19, -18, -20, 18, -19),
    *(17, 19, -19, 21, -19, -19, 17, -17, 19, 20, 21, -21, 19, 15, 18, 17, 19, -21, 20, -20),
)
"""Of a policy of Pong that learnt from equal starts: seeds 0 to 39, noop_max 30, greedy."""


def test_a_policy_that_knows_one_parity_is_found_out():
    lines = start_group_lines(group_by_start(PONG_STARTS, PONG_RETURNS, frame_skip=4))
    assert lines == [
        "by emulator frames before the first decision, mod 2: 0: -18.8 (18 games), 1: 18.4 "
        "(22 games); p = 0.0001",
        "by emulator frames before the first decision, mod 4: 0: -19.0 (10 games), 1: 18.8 "
        "(14 games), 2: -18.5 (8 games), 3: 17.6 (8 games); p = 0.0001",
        "warning: the score depends on how games begin; train the policy on varied starts "
        "(atari.noop_max)",
    ]


def test_a_sound_policy_is_not_warned_of():
    rng = np.random.default_rng(0)
    returns = rng.normal(18, 2, len(PONG_STARTS))
    lines = start_group_lines(group_by_start(PONG_STARTS, returns, frame_skip=4))
    assert len(lines) == 2
    assert not any(line.startswith("warning") for line in lines)
