from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import Annotated

import pytest

from ztw_rl.core.settings import Count, Positive, Range, Ranged, Seed, Share
from ztw_rl.errors import UserError


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
