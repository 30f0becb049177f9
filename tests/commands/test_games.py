from __future__ import annotations

import pytest

from ztw_rl.commands._games import alike_lines


@pytest.mark.parametrize(
    ("returns", "decisions", "distinct"),
    [
        # The same return need not be the same game.
        ([5, 5, 5, 5, 5, 7], [9, 9, 9, 9, 9, 9], 2),
        ([5, 5, 5, 5, 5, 5], [9, 9, 9, 8, 8, 7], 3),
        ([1, 2, 3, 3, 3, 3], [9, 9, 9, 9, 9, 7], None),
        ([5], [9], None),
    ],
)
def test_games_that_hardly_differ(returns, decisions, distinct):
    lines = alike_lines(returns, decisions)
    if distinct is None:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(f"only {distinct} of the full policy's 6 games differ")
