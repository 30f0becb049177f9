"""The cheapest setting that keeps a share of the full model's score, without flattering itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Seeds = npt.NDArray[np.int64]

KEEP = (0.99, 0.95, 0.88)
"""Shares of the full model's score over random play for which the cost is looked up."""


@dataclass(frozen=True)
class Selection:
    """What a target costs, and what it really kept."""

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


def crossfit(share: Callable[[int, Seeds], float], costs: Floats, n: int, keep: float) -> Selection:
    """Choose on one half of the seeds, report on the other, swap, average.

    Choosing and reporting on the same episodes would favour settings that were lucky.

    Args:
        share: What a setting keeps of the full model's score, on some of the seeds 0 … n−1.
        costs: (T,) relative cost of each setting.
        n: Number of seeds.
        keep: Share of the full model's score to keep, such as 0.95.

    Raises:
        ValueError: There are fewer than two seeds.
    """
    first, second = halves(n)
    chosen: list[int | None] = []
    results: list[tuple[float, float]] = []
    for choose, report in ((first, second), (second, first)):
        good = [t for t in range(len(costs)) if costs[t] < 1 and share(t, choose) >= keep]
        best = min(good, key=lambda t: float(costs[t]), default=None)
        chosen.append(best)
        results.append((1.0, 1.0) if best is None else (float(costs[best]), share(best, report)))
    cost, kept = np.mean(results, axis=0)
    return Selection((chosen[0], chosen[1]), float(cost), float(kept))


def cheapest(scores: Floats, costs: Floats, full: Floats, random: float, keep: float) -> Selection:
    """The cheapest setting by mean score; see ``crossfit``.

    Args:
        scores: (T, n) score of each setting on each seed.
        costs: (T,) relative cost of each setting.
        full: (n,) score of the full model on the same seeds.
        random: Mean score of random play.
        keep: Share of the full model's normalised score to keep, such as 0.95.

    Returns:
        The choices, their cost and what they kept.

    Raises:
        ValueError: There are fewer than two seeds, or the full model is no better than random.
    """
    if any(full[half].mean() <= random for half in halves(len(full))):
        raise ValueError("the full model is no better than random play")

    def share(setting: int, seeds: Seeds) -> float:
        return normalized(float(scores[setting, seeds].mean()), random, float(full[seeds].mean()))

    return crossfit(share, costs, len(full), keep)
