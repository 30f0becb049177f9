from __future__ import annotations

from ztw_rl.commands._games import alike_lines


def test_games_that_hardly_differ():
    same, other = (5, 9), (7, 9)
    (line,) = alike_lines([same, same, same, other], "return and length")
    assert line.startswith("only 2 of the full policy's 4 games differ in return and length: ")
    assert alike_lines([same, same, other, (7, 8)], "return and length") == []
