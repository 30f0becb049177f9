"""The rows of an evaluation's table as data, and their names where they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from ztw_rl.core.choice import RULES, Forced, Gate, Margin, Patience, Threshold
from ztw_rl.decision import Rule
from ztw_rl.errors import UserError

AdaptiveName = Literal[Rule, "patience"]
RuleName = Literal[AdaptiveName, "backbone", "forced", "random", "student"]
"""A row's name in ``curve.csv``, ``curve.json`` and journals."""


@dataclass(frozen=True)
class Full:
    """The full policy, without any exit."""


@dataclass(frozen=True)
class Student:
    """A student, which answers everything itself."""


@dataclass(frozen=True)
class RandomExits:
    """The control: exits drawn at random, as often as a rule took them."""

    shares: tuple[float, ...]
    """How often each exit is drawn."""
    beside: Threshold | Patience
    """The rule."""

    @cached_property
    def cumulated(self) -> npt.NDArray[np.float64]:
        """(E,) cumulated shares, up to one."""
        sums: npt.NDArray[np.float64] = np.cumsum(self.shares, dtype=np.float64)
        sums /= sums[-1]
        return sums


Adaptive = Threshold | Patience
Who = Adaptive | Forced | RandomExits | Full | Student
"""What decides which exit answers."""


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    who: Who
    compared: bool = False
    """Whether the full model is asked as well, at every decision, to see how often the greedy
    actions differ."""
    observed: Rule | None = None
    """Whether all exits are asked as well, at every decision, for what this rule judges by."""

    @property
    def rule(self) -> RuleName:
        """Its name where it is stored."""
        return _NAMES[type(self.who)]

    @property
    def threshold(self) -> float | None:
        """The number beside that name: τ, a patience or the exit; of a control, its rule's."""
        who = self.who.beside if isinstance(self.who, RandomExits) else self.who
        if isinstance(who, Threshold):
            # A common one: rows of a table have no threshold for each exit.
            (value,) = set(who.each(1))
            return value
        if isinstance(who, Patience):
            return float(who.exits)
        return float(who.exit) if isinstance(who, Forced) else None


_NAMES: dict[type, RuleName] = {
    Threshold: "confidence",
    Margin: "margin",
    Gate: "gate",
    Patience: "patience",
    Forced: "forced",
    RandomExits: "random",
    Full: "backbone",
    Student: "student",
}


def adaptive(rule: AdaptiveName, number: float) -> Adaptive:
    """A rule with its setting, from the name and the number that are stored."""
    return Patience(int(number)) if rule == "patience" else RULES[rule](number)


def stored(
    rule: RuleName, threshold: float | None, beside: AdaptiveName, shares: tuple[float, ...]
) -> Who:
    """What decided in a row, from what is stored of it; see ``Row.rule``.

    Args:
        rule: The row's name.
        threshold: The number beside it.
        beside: The rule of the table, which random exits stand beside.
        shares: How often each exit is drawn, of random exits.

    Raises:
        UserError: The number is missing.
    """
    if rule == "backbone":
        return Full()
    if rule == "student":
        return Student()
    if threshold is None:
        raise UserError(f"a row '{rule}' has no threshold")
    if rule == "forced":
        return Forced(int(threshold))
    if rule == "random":
        return RandomExits(shares, adaptive(beside, threshold))
    return adaptive(rule, threshold)
