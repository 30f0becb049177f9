"""Checks of settings' ranges, for the ``__post_init__`` of config dataclasses; imports no torch."""

from __future__ import annotations

from math import inf

from ztw_rl.errors import UserError

LAST_SEED = 10**9
"""Episodes and resumed sessions count on from a seed, and simulators take seeds below 2^31."""


def require(config: object, accepted: bool, name: str, expected: str) -> None:
    """Raise a UserError unless the value of field ``name`` is accepted."""
    if not accepted:
        raise UserError(f"{name} must be {expected}, not {getattr(config, name)}")


def require_at_least(config: object, lowest: float, *names: str) -> None:
    """Each field is finite and at least ``lowest``; see ``require``."""
    for name in names:
        require(config, lowest <= getattr(config, name) < inf, name, f"at least {lowest}")


def require_between(config: object, lowest: float, highest: float, *names: str) -> None:
    """Each field is in this range, its ends included; see ``require``."""
    for name in names:
        inside = lowest <= getattr(config, name) <= highest
        require(config, inside, name, f"between {lowest} and {highest}")


def require_share(config: object, *names: str) -> None:
    """Each field is between 0 and 1; see ``require``."""
    require_between(config, 0, 1, *names)


def require_positive(config: object, *names: str) -> None:
    """Each field is finite and above 0; see ``require``."""
    for name in names:
        require(config, 0 < getattr(config, name) < inf, name, "above 0 and finite")


def require_seed(config: object, name: str = "seed") -> None:
    """The field is 0 … ``LAST_SEED``; see ``require``."""
    accepted = 0 <= getattr(config, name) <= LAST_SEED
    require(config, accepted, name, f"between 0 and {LAST_SEED}")


def require_schedule(config: object, rates: str, milestones: str) -> None:
    """A step schedule, the fields of these names, fits together; see ``require``."""
    values, until = getattr(config, rates), getattr(config, milestones)
    require(config, all(0 < r < inf for r in values), rates, "all above 0 and finite")
    rising = [0.0, *until, 1.0]
    require(config, rising == sorted(rising), milestones, "rising shares between 0 and 1")
    require(config, len(until) == len(values) - 1, milestones, f"one fewer than the {rates}")
