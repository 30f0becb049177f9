from __future__ import annotations

import pytest

from ztw_rl.console import decimals, plain_console


def test_text_is_shown_as_it_is(capsys):
    path = "runs[bold]/a:smile:/[/x]" + 100 * "long"
    plain_console(stderr=True).print(path, soft_wrap=True)
    plain_console(quiet=True).print("nothing")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", path + "\n")


@pytest.mark.parametrize(
    ("returns", "expected"),
    [((0.95, -0.5), 3), ((-2.0,), 3), ((0.5, 2.5), 1), ((0.0, 0.0), 1), ((-21.0, 0.1), 1)],
)
def test_small_returns_are_shown_to_three_decimals(returns, expected):
    assert decimals(*returns) == expected
