"""The cheapest setting that keeps a share of the full model's score, without flattering itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

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


def cheapest(scores: Floats, costs: Floats, full: Floats, random: float, keep: float) -> Selection:
    """Choose on one half of the seeds, report on the other, swap, average.

    Halves are the even and the odd seeds. Choosing and reporting on the same episodes would
    favour settings that were lucky.

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
    n = len(full)
    if n < 2:
        raise ValueError("two halves need at least two seeds")
    halves = [np.arange(n) % 2 == parity for parity in (0, 1)]
    if any(full[half].mean() <= random for half in halves):
        raise ValueError("the full model is no better than random play")

    def kept(setting: int, half: npt.NDArray[np.bool_]) -> float:
        return normalized(float(scores[setting, half].mean()), random, float(full[half].mean()))

    chosen: list[int | None] = []
    results: list[tuple[float, float]] = []
    for choose, report in (halves, halves[::-1]):
        good = [t for t in range(len(costs)) if kept(t, choose) >= keep and costs[t] < 1]
        best = min(good, key=lambda t: float(costs[t]), default=None)
        chosen.append(best)
        results.append((1.0, 1.0) if best is None else (float(costs[best]), kept(best, report)))
    cost, share = np.mean(results, axis=0)
    return Selection((chosen[0], chosen[1]), float(cost), float(share))
