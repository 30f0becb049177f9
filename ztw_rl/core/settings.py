"""Ranges of settings, declared beside their types; imports no torch."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from math import inf
from typing import Annotated, get_type_hints

from ztw_rl.errors import UserError

LAST_SEED = 10**9
"""Episodes and resumed sessions count on from a seed, and simulators take seeds below 2^31."""


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may take, as in ``n_envs: Annotated[int, Range(1)]``."""

    low: float
    high: float = inf
    """inf allows every finite number."""
    above: bool = False
    """Whether ``low`` itself is left out."""

    def __contains__(self, value: float) -> bool:
        begins = self.low < value if self.above else self.low <= value
        return begins and (value < inf if self.high == inf else value <= self.high)

    def __str__(self) -> str:
        """What a value must be, in words."""
        if self.above:
            return f"above {self.low} and finite"
        if self.high == inf:
            return f"at least {self.low}"
        return f"between {self.low} and {self.high}"


Count = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, above=True)]
AtLeastZero = Annotated[float, Range(0)]
Seed = Annotated[int, Range(0, LAST_SEED)]


class Ranged:
    """Base of dataclasses whose fields declare a ``Range``; optional fields may be None.

    Values from flags, recipes and stored files all pass here, when the dataclass is made.
    """

    def __post_init__(self) -> None:
        """Check every field that declares a range.

        Raises:
            UserError: A value is outside.
        """
        # mypy takes an instance's hash for that of its class.
        for name, allowed in _ranges(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            if value is not None:
                require(self, value in allowed, name, str(allowed))


@functools.cache
def _ranges(kind: type) -> dict[str, Range]:
    """Fields of a dataclass that declare a range."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: found
        for name, hint in hints.items()
        for found in getattr(hint, "__metadata__", ())
        if isinstance(found, Range)
    }


def require(config: object, accepted: bool, name: str, expected: str) -> None:
    """Raise a UserError unless the value of field ``name`` is accepted."""
    if not accepted:
        raise UserError(f"{name} must be {expected}, not {getattr(config, name)}")


def require_schedule(config: object, rates: str, milestones: str) -> None:
    """A step schedule, the fields of these names, fits together; see ``require``."""
    values, until = getattr(config, rates), getattr(config, milestones)
    require(config, all(0 < r < inf for r in values), rates, "all above 0 and finite")
    rising = [0.0, *until, 1.0]
    require(config, rising == sorted(rising), milestones, "rising shares between 0 and 1")
    require(config, len(until) == len(values) - 1, milestones, f"one fewer than the {rates}")
