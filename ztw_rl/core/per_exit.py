"""One confidence threshold for each exit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ztw_rl.core.choice import best_within


def per_exit_thresholds(
    confidences: npt.NDArray[Any],
    right: npt.NDArray[np.bool_],
    costs: Sequence[float],
    candidates: Sequence[float],
    budget: float,
    n_sweeps: int = 3,
) -> tuple[float, ...]:
    """One threshold per IC, the most accurate found within the budget.

    Coordinate ascent from the best common threshold: each IC's in turn takes the best candidate,
    the others fixed.

    Args:
        confidences: (N, E) of every exit.
        right: (N, E) whether every exit's answer is right.
        costs: (E,) relative cost of leaving at each exit.
        candidates: Thresholds to choose from.
        budget: Largest mean cost.
        n_sweeps: Times that each IC has its turn.

    Returns:
        E−1 thresholds.

    Raises:
        ValueError: No common threshold is within the budget; the message names the lowest cost.
    """
    price = np.asarray(costs, float)
    n_ics = confidences.shape[1] - 1
    ones = np.ones((len(confidences), 1), bool)

    def score(thresholds: Sequence[float]) -> tuple[float, float]:
        """(accuracy, mean cost)."""
        leaves = np.concatenate([confidences[:, :-1] > np.asarray(thresholds), ones], axis=1)
        exits = leaves.argmax(axis=1)
        accuracy = np.take_along_axis(right, exits[:, None], axis=1).mean()
        return float(accuracy), float(price[exits].mean())

    scored = [score((t,) * n_ics) for t in candidates]
    accuracies, means = np.array(scored, float).T
    start = best_within(accuracies, means, budget)
    if start is None:
        raise ValueError(f"is below the lowest cost of a common threshold, {means.min():.3f}")
    best = [candidates[start]] * n_ics
    for _ in range(n_sweeps):
        for m in range(n_ics):
            options = {t: score([*best[:m], t, *best[m + 1 :]]) for t in (best[m], *candidates)}
            affordable = {t: s for t, s in options.items() if s[1] <= budget}
            # Of equally accurate ones the cheapest, which leaves room for the other ICs.
            best[m] = max(affordable, key=lambda t: (affordable[t][0], -affordable[t][1]))
    return tuple(best)
