"""At which operating point to run a model, and what such a choice is worth.

A trial is what was measured of several points on the same units, such as episodes or samples. A
target says what is wanted. ``choose`` brings the two together: it chooses on all units, and tells
what a choice so made on one half of them is worth on the other, since a choice looks best where it
was made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from ztw_rl.core.risk import controlling_risk, fewest_units
from ztw_rl.decision import Rule, never

Floats = npt.NDArray[np.float64]
Units = npt.NDArray[np.int64]
P = TypeVar("P")

KEEP = (0.99, 0.95, 0.88)
"""Shares of the full model's score over no skill for which the cost is looked up."""
ORDER_SEED = 0
"""Of the order in which units are tested."""
NEVER = never("confidence")
"""A threshold that no confidence exceeds."""
ALWAYS = -1.0
"""A threshold that every confidence exceeds."""


@dataclass(frozen=True)
class Threshold:
    """Leave at the first exit whose confidence exceeds τ."""

    value: float | tuple[float, ...]
    """τ of all internal classifiers (ICs), or of each."""

    rule: ClassVar[Rule] = "confidence"
    noun: ClassVar[str] = "threshold"

    def each(self, n_ics: int) -> tuple[float, ...]:
        """One τ per IC."""
        return self.value if isinstance(self.value, tuple) else (self.value,) * n_ics

    def __str__(self) -> str:
        """In a few words."""
        if isinstance(self.value, tuple):
            return f"{self.noun}s {min(self.value):g} to {max(self.value):g}"
        return f"{self.noun} {self.value:g}"


@dataclass(frozen=True)
class Margin(Threshold):
    """Leave at the first exit whose highest probability exceeds the second by more than τ."""

    rule: ClassVar[Rule] = "margin"
    noun: ClassVar[str] = "margin"


@dataclass(frozen=True)
class Gate(Threshold):
    """Leave at the first exit whose gate predicts a regret below τ."""

    rule: ClassVar[Rule] = "gate"
    noun: ClassVar[str] = "regret threshold"


RULES: dict[Rule, type[Threshold]] = {"confidence": Threshold, "margin": Margin, "gate": Gate}
"""Thresholds by what exits are judged by."""


@dataclass(frozen=True)
class Forced:
    """Always leave at the same exit."""

    exit: int

    rule: ClassVar[Rule] = "confidence"

    def each(self, n_ics: int) -> tuple[float, ...]:
        """One τ per IC."""
        return tuple(ALWAYS if m == self.exit else NEVER for m in range(n_ics))

    def __str__(self) -> str:
        """In a few words."""
        return f"exit {self.exit} alone"


@dataclass(frozen=True)
class Patience:
    """Leave when so many exits in a row agree."""

    exits: int

    def __str__(self) -> str:
        """In a few words."""
        return f"patience {self.exits}"


Point = Threshold | Forced
"""What a model can be exported with."""


@dataclass(frozen=True)
class Keep:
    """The cheapest point that keeps a share of the full model's score."""

    share: float
    """Such as 0.95, of the way from no skill to the full model."""


@dataclass(frozen=True)
class Budget:
    """The best point whose mean cost is within a budget."""

    cost: float
    """Such as 0.6, the full model's being 1."""


@dataclass(frozen=True)
class Risk:
    """The cheapest threshold that rarely contradicts the full model, with a guarantee."""

    share: float
    """Largest expected share of contradicted decisions, 0 < share < 1."""
    confidence: float = 0.95
    """Probability, over the draw of the units, that the guarantee holds."""


Target = Keep | Budget | Risk


@dataclass(frozen=True)
class Costs:
    """What the decisions of each unit cost, relative to the full model's."""

    means: Floats
    """(…, T, n) mean cost of a decision, of each point on each unit."""
    decisions: Floats
    """(…, T, n) how many decisions that is the mean of."""

    def on(self, units: Units | None = None) -> Floats:
        """(…, T) mean cost of a decision on some of the units, by default on all."""
        part = slice(None) if units is None else units
        weights = self.decisions[..., part]
        means: Floats = (self.means[..., part] * weights).sum(axis=-1) / weights.sum(axis=-1)
        return means


@dataclass(frozen=True)
class Outcome:
    """What a point does to some units."""

    score: float
    """Mean return, or accuracy."""
    cost: float
    """Mean of a decision, relative to the full model's."""
    kept: float | None
    """Share kept of the full model's score over no skill; None if that is not known."""
    disagreement: float | None
    """Share of decisions that differ from the full model's; None if it was not asked."""


@dataclass(frozen=True)
class Trial:
    """What was measured of T points on the same n units as the full model."""

    points: tuple[Point | Patience, ...]
    """T: forced exits, then thresholds or patience, from bold to cautious."""
    scores: npt.NDArray[np.generic]
    """(T, n) of each point on each unit."""
    costs: Costs
    """(T, n)."""
    full: npt.NDArray[np.generic]
    """(n,) score of the full model on the same units."""
    no_skill: float | None
    """What no skill at all scores, such as 0 for accuracy; None if it is not known."""
    unit: str
    """What a unit is called, in the plural."""
    disagreement: npt.NDArray[np.generic] | None = None
    """(n, T) share of each unit's decisions that differ from the full model's."""

    def __len__(self) -> int:
        """Number of units."""
        return len(self.full)

    def outcome(self, position: int | None, units: Units | None = None) -> Outcome:
        """What a point, or None for the full model, does to some of the units or to all."""
        part = slice(None) if units is None else units
        full = float(self.full[part].mean())
        if position is None:
            return Outcome(full, 1.0, 1.0, 0.0)
        score = float(self.scores[position, part].mean())
        kept = None
        if self.no_skill is not None and full > self.no_skill:
            kept = normalized(score, self.no_skill, full)
        differs = None
        if self.disagreement is not None:
            asked = float(self.disagreement[part, position].mean())
            differs = None if np.isnan(asked) else asked
        return Outcome(score, float(self.costs.on(units)[position]), kept, differs)

    def position(self, target: Target, units: Units | None = None) -> int | Unreachable | None:
        """Which point a target picks on some of the units, by default on all.

        Returns:
            Its position; None where only the full model will do.
        """
        if isinstance(target, Risk):
            return self._controlling(target, units)
        part = slice(None) if units is None else units
        scores, costs = self.scores[:, part].mean(axis=1), self.costs.on(units)
        if isinstance(target, Budget):
            found = best_within(scores, costs, target.cost)
            if found is None:
                return Unreachable(f"is below the lowest cost, {costs.min():.3f}")
            return found
        if self.no_skill is None:
            return Unreachable("cannot be counted: what no skill scores is not known")
        full = float(self.full[part].mean())
        if full <= self.no_skill:
            return Unreachable("has nothing to keep: the full model is no better than no skill")
        return cheapest_keeping(scores, full, costs, self.no_skill, target.share)

    def _controlling(self, target: Risk, units: Units | None) -> int | Unreachable:
        """See ``core.risk``; forced exits are no part of the sequence."""
        candidates = [i for i, point in enumerate(self.points) if isinstance(point, Threshold)]
        if self.disagreement is None:
            return Unreachable("cannot be shown: the full model was not asked")
        # The test bets on one unit after another, so their order must say nothing of them: data
        # may be sorted by class.
        drawn = np.arange(len(self)) if units is None else units
        drawn = np.random.default_rng(ORDER_SEED).permutation(drawn)
        losses = self.disagreement[:, candidates][drawn]
        found = controlling_risk(losses, target.share, target.confidence)
        if found is None:
            return Unreachable(
                f"cannot be shown by {len(losses)} {self.unit}: even at {self.points[-1]} "
                f"{losses[:, -1].mean():.2%} of the answers differ, and "
                f"{fewest_units(target.share, target.confidence)} {self.unit} without any "
                "difference are the least that can"
            )
        return candidates[found]


@dataclass(frozen=True)
class Unreachable:
    """Why no point reaches a target, in words that follow the target's own."""

    why: str


@dataclass(frozen=True)
class Choice:
    """A point that reaches a target."""

    setting: Point | Patience
    on_all: Outcome
    """On the units that it was chosen on."""
    expected: Outcome | None
    """What a choice so made on one half of the units is worth on the other, on average; None if a
    half allows no choice."""

    @property
    def point(self) -> Point:
        """What a model can be exported with.

        Raises:
            TypeError: It was chosen among patiences, which exported models do not know.
        """
        if isinstance(self.setting, Patience):
            raise TypeError("an exported model leaves by confidence, not by patience")
        return self.setting


def choose(target: Target, trial: Trial) -> Choice | Unreachable:
    """The point that reaches a target.

    Args:
        target: What is wanted.
        trial: What was measured.
    """
    found = trial.position(target)
    if isinstance(found, Unreachable):
        return found
    if found is None:
        assert isinstance(target, Keep)
        return Unreachable(_nothing_keeps(target, trial))
    return Choice(trial.points[found], trial.outcome(found), expected(target, trial))


def expected(target: Target, trial: Trial) -> Outcome | None:
    """See ``Choice.expected``; where only the full model will do, it stands in."""

    def pick(units: Units) -> int | None:
        found = trial.position(target, units)
        if isinstance(found, Unreachable):
            raise _NoChoiceError
        return found

    try:
        chosen = by_halves(pick, len(trial))
    except (_NoChoiceError, ValueError):
        return None
    return mean_outcome([trial.outcome(position, units) for position, units in chosen])


class _NoChoiceError(Exception):
    """A half of the units allows no choice."""


def _nothing_keeps(target: Keep, trial: Trial) -> str:
    assert trial.no_skill is not None
    full = float(trial.full.mean())
    needed = trial.no_skill + target.share * (full - trial.no_skill)
    cheaper = trial.scores.mean(axis=1)[trial.costs.on() < 1]
    most = f" (the best has {cheaper.max():.4g})" if len(cheaper) else ""
    return (
        f"needs a score of {needed:.4g}, and nothing has it at a lower cost than the full "
        f"model{most}; ask for less"
    )


def best_within(scores: Floats, costs: Floats, budget: float) -> int | None:
    """The best point whose mean cost is within the budget.

    Args:
        scores: (T,) means.
        costs: (T,) means.
        budget: Such as 0.6.

    Returns:
        Its position, of equally good ones the last; None if all are dearer.
    """
    cheap = np.flatnonzero(costs <= budget)
    return int(cheap[::-1][scores[cheap][::-1].argmax()]) if len(cheap) else None


def cheapest_keeping(
    scores: Floats, full: float, costs: Floats, no_skill: float, share: float
) -> int | None:
    """The cheapest point that keeps a share of the full model's score.

    Args:
        scores: (T,) means.
        full: The full model's mean, above ``no_skill``.
        costs: (T,) means.
        no_skill: What no skill at all scores.
        share: Such as 0.95, of the way from ``no_skill`` to the full model.

    Returns:
        Its position, of equally cheap ones the last; None if none costs less than the full model.
    """
    good = np.flatnonzero((scores >= no_skill + share * (full - no_skill)) & (costs < 1))
    return int(good[::-1][costs[good][::-1].argmin()]) if len(good) else None


def normalized(score: float, no_skill: float, full: float) -> float:
    """(score − no skill) / (full − no skill): 0 for no skill, 1 for the full model."""
    return (score - no_skill) / (full - no_skill)


def halves(n: int) -> tuple[Units, Units]:
    """The even and the odd of n units.

    Raises:
        ValueError: There are fewer than two.
    """
    if n < 2:
        raise ValueError("two halves need at least two units")
    return np.arange(0, n, 2), np.arange(1, n, 2)


def by_halves(pick: Callable[[Units], P], n: int) -> list[tuple[P, Units]]:
    """Choose on one half of n units for the other, then the other way round.

    Args:
        pick: From some of the units 0 … n−1 to a choice.
        n: Number of units.

    Returns:
        Both choices, each with the units that it was not made on.

    Raises:
        ValueError: There are fewer than two units.
    """
    first, second = halves(n)
    return [(pick(first), second), (pick(second), first)]


def mean_outcome(outcomes: list[Outcome]) -> Outcome:
    """The mean of both halves' outcomes; what one of them does not tell, the mean does not."""

    def mean(values: list[float | None]) -> float | None:
        told = [value for value in values if value is not None]
        return float(np.mean(told)) if len(told) == len(values) else None

    return Outcome(
        float(np.mean([o.score for o in outcomes])),
        float(np.mean([o.cost for o in outcomes])),
        mean([o.kept for o in outcomes]),
        mean([o.disagreement for o in outcomes]),
    )


def per_exit_thresholds(
    signals: npt.NDArray[Any],
    right: npt.NDArray[np.bool_],
    costs: Sequence[float],
    start: Sequence[float],
    candidates: Sequence[float],
    budget: float,
    n_sweeps: int = 3,
) -> tuple[float, ...]:
    """One bound per IC, the most accurate found within the budget.

    Coordinate ascent: each IC's in turn takes the best candidate, the others fixed. So the result
    is no less accurate than the start on these samples.

    Args:
        signals: (N, E−1), what the ICs are judged by, higher where they should answer.
        right: (N, E) whether every exit's answer is right.
        costs: (E,) relative cost of leaving at each exit.
        start: E−1 bounds whose mean cost is within the budget.
        candidates: Bounds to choose from.
        budget: Largest mean cost.
        n_sweeps: Times that each IC has its turn.

    Returns:
        E−1 bounds.
    """
    price = np.asarray(costs, float)
    ones = np.ones((len(signals), 1), bool)

    def score(bounds: Sequence[float]) -> tuple[float, float]:
        """(accuracy, mean cost)."""
        # Rounded as signals are.
        leaves = np.concatenate([signals > np.asarray(bounds, np.float32), ones], axis=1)
        exits = leaves.argmax(axis=1)
        accuracy = np.take_along_axis(right, exits[:, None], axis=1).mean()
        return float(accuracy), float(price[exits].mean())

    best = list(start)
    for _ in range(n_sweeps):
        for m in range(len(best)):
            options = {t: score([*best[:m], t, *best[m + 1 :]]) for t in (best[m], *candidates)}
            affordable = {t: s for t, s in options.items() if s[1] <= budget or t == best[m]}
            # Of equally accurate ones the cheapest, which leaves room for the other ICs.
            best[m] = max(affordable, key=lambda t: (affordable[t][0], -affordable[t][1]))
    return tuple(best)
