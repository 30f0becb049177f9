from __future__ import annotations

import io
import sys
from dataclasses import dataclass

import pytest

from ztw_rl.commands._arguments import read
from ztw_rl.errors import UserError


@dataclass(frozen=True)
class Settings:
    n_games: int = 1
    """How many.
    --colour is another flag."""
    colour: str = "red"
    verbose: bool = False


class Terminal(io.StringIO):
    """tyro draws in colour and Unicode on it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Log(Terminal):
    """tyro draws in ASCII on it."""

    encoding = "ascii"

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize("output", [Terminal, Log])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--zz"], "unrecognized options: --zz"),
        (["--n-game", "3"], "unrecognized options: --n-game, 3; did you mean --n-games?"),
        (["--verbos"], "unrecognized options: --verbos; did you mean --verbose?"),
        (["--n-games"], "missing value for argument '--n-games'. Expected 1 values"),
        (
            ["--n-games", "a number that is wider than the terminal " + "and " * 20],
            "error parsing --n-games: invalid literal for int() with base 10: "
            f"'a number that is wider than the terminal {'and ' * 20}'",
        ),
    ],
)
def test_mistakes_are_one_line(monkeypatch, output, arguments, message):
    monkeypatch.setattr(sys, "stdout", output())
    with pytest.raises(UserError) as caught:
        read(Settings, arguments, "x y")
    assert str(caught.value) == f"{message} (x y --help lists the options)"


def test_help_is_shown(capsys):
    with pytest.raises(SystemExit) as caught:
        read(Settings, ["--help"], "x")
    assert not caught.value.code
    assert "--n-games" in capsys.readouterr().out


def test_defaults():
    assert read(Settings, ["--colour", "blue"], "x", Settings(7)) == Settings(7, "blue")
