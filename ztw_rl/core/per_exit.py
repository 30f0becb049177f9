"""One confidence threshold for each exit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def per_exit_thresholds(
    confidences: npt.NDArray[Any],
    right: npt.NDArray[np.bool_],
    costs: Sequence[float],
    start: Sequence[float],
    candidates: Sequence[float],
    budget: float,
    n_sweeps: int = 3,
) -> tuple[float, ...]:
    """One threshold per IC, the most accurate found within the budget.

    Coordinate ascent: each IC's in turn takes the best candidate, the others fixed. So the result
    is no less accurate than the start on these samples.

    Args:
        confidences: (N, E) of every exit.
        right: (N, E) whether every exit's answer is right.
        costs: (E,) relative cost of leaving at each exit.
        start: E−1 thresholds whose mean cost is within the budget.
        candidates: Thresholds to choose from.
        budget: Largest mean cost.
        n_sweeps: Times that each IC has its turn.

    Returns:
        E−1 thresholds.
    """
    price = np.asarray(costs, float)
    ones = np.ones((len(confidences), 1), bool)

    def score(thresholds: Sequence[float]) -> tuple[float, float]:
        """(accuracy, mean cost)."""
        # Rounded as confidences are.
        taus = np.asarray(thresholds, np.float32)
        leaves = np.concatenate([confidences[:, :-1] > taus, ones], axis=1)
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
