"""Accuracy within a budget: which threshold is chosen, on which data, and what it then does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ztw_rl.core.choice import by_halves
from ztw_rl.core.sweep import Curve

Budget = float | Literal["max"]
BUDGETS: tuple[Budget, ...] = (0.25, 0.5, 0.75, 1.0, "max")
"""Shares of the backbone's cost, and ``max``: whatever threshold is most accurate."""


@dataclass(frozen=True)
class BudgetPoint:
    """One cell of a results table."""

    budget: Budget
    threshold: float | None
    """None if no threshold keeps the budget."""
    relative_macs: float | None
    """Realised on the reported data."""
    accuracy: float | None
    """On the reported data, 0 … 1."""


def choose(curve: Curve, budget: Budget) -> int | None:
    """Position of the threshold that a budget picks.

    Args:
        curve: Of the data that thresholds are chosen on.
        budget: A number: the largest threshold whose mean cost does not exceed it. ``max``: the
            threshold of the best accuracy, the cheapest of equals.

    Returns:
        Its position in ``curve``, or None if every threshold costs more.
    """
    if budget == "max":
        return int(curve.accuracy.argmax())
    fits = (curve.relative_macs <= budget).nonzero()
    return int(fits[-1]) if len(fits) else None


def point(curve: Curve, budget: Budget) -> BudgetPoint:
    """A threshold chosen and reported on the same data, as published tables do."""
    i = choose(curve, budget)
    if i is None:
        return BudgetPoint(budget, None, None, None)
    return BudgetPoint(
        budget,
        float(curve.thresholds[i]),
        float(curve.relative_macs[i]),
        float(curve.accuracy[i]),
    )


CurveAt = Callable[[Tensor, Tensor | None], Curve]
"""From the samples to use, (n,) int64, and thresholds, to a curve over them; without thresholds,
over those that the samples themselves suggest."""


def transferred(chosen_on: Curve, budget: Budget, report: Callable[[Tensor], Curve]) -> BudgetPoint:
    """A threshold chosen on some data and reported on other.

    Args:
        chosen_on: Curve of the data it is chosen on.
        budget: See ``choose``.
        report: From (1,) thresholds to the curve of the reported data.
    """
    i = choose(chosen_on, budget)
    if i is None:
        return BudgetPoint(budget, None, None, None)
    threshold = chosen_on.thresholds[i : i + 1]
    realised = report(threshold)
    return BudgetPoint(
        budget,
        float(threshold[0]),
        float(realised.relative_macs[0]),
        float(realised.accuracy[0]),
    )


def cross_fitted(curve_at: CurveAt, n: int, budget: Budget, seed: int = 0) -> BudgetPoint:
    """Choose on one random half, report on the other, swap, and average.

    Args:
        curve_at: Curves over some of the samples.
        n: Number of samples N.
        budget: See ``choose``.
        seed: Of the halves: images may be sorted by class.

    Returns:
        Averages weighted by the halves' sizes; empty if either half has no threshold.
    """
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    order = torch.empty_like(drawn)
    order[1::2], order[::2] = drawn[: n // 2], drawn[n // 2 :]  # the halves that by_halves takes
    chosen = by_halves(lambda units: curve_at(order[units], None), n)
    points, weights = [], []
    for curve, units in chosen:
        points.append(transferred(curve, budget, partial(curve_at, order[units])))
        weights.append(len(units) / n)

    def mean(values: list[float | None]) -> float | None:
        present = [v for v in values if v is not None]
        if len(present) < len(values):
            return None
        return sum(w * v for w, v in zip(weights, present, strict=True))

    return BudgetPoint(
        budget,
        mean([p.threshold for p in points]),
        mean([p.relative_macs for p in points]),
        mean([p.accuracy for p in points]),
    )
