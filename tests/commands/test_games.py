from __future__ import annotations

from ztw_rl.commands._games import alike_lines


def test_games_that_hardly_differ():
    (line,) = alike_lines([5, 5, 5, 7], [9, 9, 9, 9])
    assert line.startswith("only 2 of the full policy's 4 games differ")
    assert alike_lines([5, 5, 6, 7], [9, 9, 9, 9]) == []
