from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, nan
from typing import Annotated, Literal

import pytest

from ztw_rl.errors import UserError
from ztw_rl.settings import Count, Positive, Range, Ranged, Seed, Share, added, parse, parse_stored


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    mode: Literal["fast", "slow"] = "fast"

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise UserError(f"rate must be at least 0, not {self.rate}")


@dataclass(frozen=True)
class Outer:
    count: int
    flag: bool = False
    names: tuple[str, ...] = ()
    pair: tuple[float, float] | None = None
    inner: Inner = field(default_factory=Inner)


def test_every_supported_type():
    data = {
        "count": 3,
        "flag": True,
        "names": ["a", "b"],
        "pair": [1, 2.5],
        "inner": {"rate": 1, "mode": "slow"},
    }
    assert parse(Outer, data, "f") == Outer(3, True, ("a", "b"), (1.0, 2.5), Inner(1.0, "slow"))


def test_whole_numbers_become_floats():
    rate = parse(Inner, {"rate": 1}, "f").rate
    assert type(rate) is float


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("2.5E-4", 2.5e-4), ("1.e+2", 100.0)])
def test_the_numbers_that_yaml_reads_as_text(text, value):
    assert parse(Inner, {"rate": text}, "f").rate == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "f.yaml: key 'count' is missing"),
        ({"count": "eight"}, "f.yaml: count is 'eight' (text), expected a whole number"),
        ({"count": 1.0}, "count is 1.0 (a number), expected a whole number"),
        ({"count": True}, "count is True (true or false), expected a whole number"),
        ({"count": None}, "count is empty, expected a whole number"),
        ({"count": "1e3"}, "count is '1e3' (text), expected a whole number"),
        ({"count": 1, "flag": "no"}, "flag is 'no' (text), expected true or false"),
        ({"count": 1, "flag": 1}, "flag is 1 (a number), expected true or false"),
        ({"count": 1, "names": "a"}, "names is 'a' (text), expected a list, each text"),
        ({"count": 1, "names": ["a", 2]}, "names[1] is 2 (a number), expected text"),
        ({"count": 1, "pair": [1]}, "expected a list of 2: a number, a number"),
        ({"count": 1, "inner": 3}, "inner is 3 (a number), expected a mapping of settings"),
        ({"count": 1, "inner": {"rate": "x"}}, "inner.rate is 'x' (text), expected a number"),
        ({"count": 1, "inner": {"rate": float("nan")}}, "inner.rate is nan"),
        ({"count": 1, "inner": {"rate": float("inf")}}, "inner.rate is inf"),
        ({"count": 1, "inner": {"rate": 10**400}}, "inner.rate is 1000"),
        ({"count": 1, "inner": {"mode": "fats"}}, "inner.mode is 'fats' (text), expected fast or"),
        ({"count": 1, "inner": {"rat": 1}}, "unknown key 'inner.rat'; did you mean 'inner.rate'?"),
        ({"count": 1, "inner": {"rate": -1}}, "f.yaml: inner.rate must be at least 0, not -1.0"),
        ([1], "f.yaml: found [1] (a collection), expected a mapping of settings"),
    ],
)
def test_errors_name_file_key_found_and_expected(data, message):
    with pytest.raises(UserError) as raised:
        parse(Outer, data, "f.yaml")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@dataclass(frozen=True)
class Grown:
    name: str
    size: int = added(30, before=0)


@dataclass(frozen=True)
class Holder:
    parts: tuple[Grown, ...]


def test_a_stored_file_without_a_later_setting_means_what_was_before():
    assert parse_stored(Grown, {"name": "a"}, "f") == Grown("a", 0)
    assert parse_stored(Grown, {"name": "a", "size": 7}, "f") == Grown("a", 7)
    assert parse_stored(Holder, {"parts": [{"name": "a"}]}, "f").parts[0].size == 0
    assert parse(Grown, {"name": "a"}, "f") == Grown("a", 30) == Grown("a")


def test_a_stored_file_is_a_mapping():
    with pytest.raises(UserError, match="f: found empty, expected a mapping"):
        parse_stored(Grown, None, "f")


@dataclass(frozen=True)
class Settings(Ranged):
    n: Count = 1
    share: Share = 0.0
    rate: Positive = 1.0
    seed: Seed = 0
    size: Annotated[int | None, Range(32)] = None
    name: str = ""


@dataclass(frozen=True)
class More(Settings):
    top: Annotated[int, Range(0, 3)] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "x":
            raise UserError("no x")


def test_the_edges_are_allowed():
    Settings(share=1.0, seed=10**9, size=32)
    assert More(n=2, top=0).top == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 0}, "n must be at least 1, not 0"),
        ({"share": 1.1}, r"share must be between 0 and 1, not 1\.1"),
        ({"share": nan}, "share must be between 0 and 1, not nan"),
        ({"rate": 0.0}, r"rate must be above 0 and finite, not 0\.0"),
        ({"rate": inf}, "rate must be above 0 and finite, not inf"),
        ({"rate": nan}, "rate must be above 0 and finite, not nan"),
        ({"n": inf}, "n must be at least 1, not inf"),
        ({"seed": -1}, "seed must be between 0 and 1000000000, not -1"),
        ({"size": 31}, "size must be at least 32, not 31"),
        ({"top": 4}, "top must be between 0 and 3, not 4"),
        ({"name": "x"}, "no x"),
    ],
)
def test_what_is_outside(values, message):
    with pytest.raises(UserError, match=message):
        More(**values)
