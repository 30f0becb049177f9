from __future__ import annotations

import io
import sys
from dataclasses import dataclass

import pytest

from ztw_rl.commands._arguments import parse_thresholds, read
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


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1:0.9", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        ("0:1:0.25", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("0.5:0.95", [0.5, 0.6, 0.7, 0.8, 0.9]),
        ("0.3:0.6:0.1", [0.3, 0.4, 0.5, 0.6]),
        ("0.7:0.7", [0.7]),
        ("0.9,0.5,1.5", [0.9, 0.5, 1.5]),
        ("0.5", [0.5]),
        ("0.5,0.3,0.5", [0.5, 0.3]),
        (" 0.5, 0.7 ", [0.5, 0.7]),
        ("1:3:1", [1.0, 2.0, 3.0]),
        ("1e-1:3e-1", [0.1, 0.2, 0.3]),
        ("0.5:0.5000000001:0.00000000002", [0.5, 0.5000000001]),
    ],
)
def test_lists_and_ranges(text, values):
    assert parse_thresholds(text) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.9:0.1", "thresholds '0.9:0.1' go down; write 0.1:0.9"),
        ("", "'' is no number"),
        (":", "'' is no number"),
        ("0.1:", "'' is no number"),
        ("0.1,,0.2", "'' is no number"),
        ("high", "'high' is no number; write 0.1:0.9 or 0.5,0.7"),
        ("0.1:0.9:x", "'x' is no number"),
        ("0.1;0.9", "'0.1;0.9' is no number"),
        ("-0.1", "-0.1 is not a number of 0 or more"),
        ("nan", "nan is not a number of 0 or more"),
        ("0:inf", "inf is not a number of 0 or more"),
        ("1e999", "1e999 is not a number of 0 or more"),
        ("0.1:0.9:0", "the step must be above 0"),
        ("0.1:0.9:-0.1", "-0.1 is not a number of 0 or more"),
        ("0.1:0.9:0.1:0.1", "write start:stop or start:stop:step"),
        ("0:1:1e-9", "are 1e+09; write at most 1000"),
        ("0:1e300", "write at most 1000"),
        ("0:1e308:1e-308", "write at most 1000"),
        ("0:1:0.001", "are 1001; write at most 1000"),
    ],
)
def test_what_is_no_threshold(text, message):
    with pytest.raises(UserError) as raised:
        parse_thresholds(text)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"thresholds '{text}'")
    assert "\n" not in str(raised.value)
