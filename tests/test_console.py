from __future__ import annotations

from ztw_rl.console import plain_console


def test_text_is_shown_as_it_is(capsys):
    path = "runs[bold]/a:smile:/[/x]" + 100 * "long"
    plain_console(stderr=True).print(path, soft_wrap=True)
    plain_console(quiet=True).print("nothing")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", path + "\n")
