"""Which setting to run, and what such a choice is worth on games that it was not made on.

One choice serves two ends. What is deployed is chosen on all games of a calibration run. What is
reported of it is cross-fitted: a choice looks best on the very games that it was made on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Seeds = npt.NDArray[np.int64]

KEEP = (0.99, 0.95, 0.88)
"""Shares of the full model's score over random play for which the cost is looked up."""

Choose = Callable[[Floats, float, Floats], "int | None"]
"""From the (T,) mean scores of the settings, the full model's mean score and the settings' (T,)
mean costs, all on the same games, to the position of one setting; None where only the full model
will do."""


@dataclass(frozen=True)
class Costs:
    """What the decisions of each game cost, relative to the full model's."""

    means: Floats
    """(…, T, n) mean cost of a decision, of each setting on each seed."""
    decisions: Floats
    """(…, T, n) how many decisions that is the mean of."""

    def on(self, seeds: Seeds | None = None) -> Floats:
        """(…, T) mean cost of a decision on some of the seeds, by default on all."""
        part = slice(None) if seeds is None else seeds
        weights = self.decisions[..., part]
        means: Floats = (self.means[..., part] * weights).sum(axis=-1) / weights.sum(axis=-1)
        return means


def keeping(random: float, share: float) -> Choose:
    """Choose the cheapest setting that keeps a share of the full model's score.

    Args:
        random: What no skill at all scores: random play's return, 0 for accuracy.
        share: Such as 0.95, of the way from ``random`` to the full model.

    Returns:
        A choice; of equally cheap settings it takes the last, and none that costs as much as the
        full model. It raises ValueError where the full model is no better than random.
    """

    def choose(scores: Floats, full: float, costs: Floats) -> int | None:
        if full <= random:
            raise ValueError("the full model is no better than random play")
        good = np.flatnonzero((scores >= random + share * (full - random)) & (costs < 1))
        return int(good[::-1][costs[good][::-1].argmin()]) if len(good) else None

    return choose


def within(budget: float) -> Choose:
    """Choose the best setting whose mean cost is within the budget.

    Args:
        budget: Such as 0.6.

    Returns:
        A choice; of equally good settings it takes the last, and none if all are dearer.
    """

    def choose(scores: Floats, full: float, costs: Floats) -> int | None:
        cheap = np.flatnonzero(costs <= budget)
        return int(cheap[::-1][scores[cheap][::-1].argmax()]) if len(cheap) else None

    return choose


@dataclass(frozen=True)
class CrossFit:
    """What choosing costs and keeps, on games that were not chosen on."""

    chosen: tuple[int | None, int | None]
    """Setting chosen on each half of the seeds; None where only the full model would do."""
    cost: float
    """Mean cost of the two choices, relative to the full model."""
    kept: float
    """Mean share kept by each choice on the half that it was not chosen on."""


def normalized(score: float, random: float, full: float) -> float:
    """(score − random) / (full − random): 0 for random play, 1 for the full model."""
    return (score - random) / (full - random)


def halves(n: int) -> tuple[Seeds, Seeds]:
    """The even and the odd of n seeds.

    Raises:
        ValueError: There are fewer than two.
    """
    if n < 2:
        raise ValueError("two halves need at least two seeds")
    return np.arange(0, n, 2), np.arange(1, n, 2)


def by_halves(
    choose: Callable[[Seeds], int | None],
    cost: Callable[[int, Seeds], float],
    share: Callable[[int, Seeds], float],
    n: int,
) -> CrossFit:
    """Choose on one half of the seeds, report on the other, swap, average.

    Args:
        choose: From some of the seeds 0 … n−1 to a setting, or None for the full model.
        cost: What a setting costs relative to the full model, on some of the seeds.
        share: What a setting keeps of the full model's score, on some of the seeds.
        n: Number of seeds.

    Raises:
        ValueError: There are fewer than two seeds.
    """
    first, second = halves(n)
    chosen: list[int | None] = []
    results: list[tuple[float, float]] = []
    for here, there in ((first, second), (second, first)):
        best = choose(here)
        chosen.append(best)
        results.append((1.0, 1.0) if best is None else (cost(best, there), share(best, there)))
    mean_cost, kept = np.mean(results, axis=0)
    return CrossFit((chosen[0], chosen[1]), float(mean_cost), float(kept))


def cross_fit(
    choose: Choose, scores: Floats, costs: Costs, full: Floats, random: float
) -> CrossFit:
    """What a choice by mean score and mean cost is worth; see ``by_halves``.

    Args:
        choose: What is judged.
        scores: (T, n) score of each setting on each seed.
        costs: (T, n) of each setting on each seed.
        full: (n,) score of the full model on the same seeds.
        random: Mean score of random play.

    Returns:
        The choices, their cost and what they kept.

    Raises:
        ValueError: There are fewer than two seeds, or the full model is no better than random.
    """
    if any(full[half].mean() <= random for half in halves(len(full))):
        raise ValueError("the full model is no better than random play")

    def chosen(seeds: Seeds) -> int | None:
        return choose(scores[:, seeds].mean(axis=1), float(full[seeds].mean()), costs.on(seeds))

    def cost(setting: int, seeds: Seeds) -> float:
        return float(costs.on(seeds)[setting])

    def share(setting: int, seeds: Seeds) -> float:
        return normalized(float(scores[setting, seeds].mean()), random, float(full[seeds].mean()))

    return by_halves(chosen, cost, share, len(full))
