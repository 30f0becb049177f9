"""Choice of confidence thresholds τ with a guarantee, and of one for each exit.

The guarantee works on a table: one row per unit (a sample, or a whole episode), one column per
threshold, thresholds ascending. ``core.selection`` chooses without one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from ztw_rl.core.selection import within
from ztw_rl.errors import UserError

PValues = Callable[[npt.NDArray[np.float64], float, float], npt.NDArray[np.float64]]
"""From (N, T) losses, the target and the confidence to (T,) p-values of "the expected loss exceeds
the target"."""


def hoeffding_bentkus(
    risks: npt.NDArray[np.float64], n: int, target: float
) -> npt.NDArray[np.float64]:
    """p-values of "the true risk exceeds the target", for losses in 0 … 1.

    Source: Bates et al., "Distribution-Free, Risk-Controlling Prediction Sets" (2021); Angelopoulos
    et al., "Learn then Test" (2021). The smaller of Hoeffding's bound,
    exp(−n·KL(risk ‖ target)), and Bentkus's, e·P(Binomial(n, target) ≤ ⌈n·risk⌉).

    Args:
        risks: (T,) empirical means.
        n: Independent units behind each mean.
        target: 0 < target < 1.
    """
    risk = np.minimum(risks, target)
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(risk > 0, risk * np.log(risk / target), 0.0)
        kl = kl + (1 - risk) * np.log((1 - risk) / (1 - target))
    hoeffding = np.exp(-n * kl)
    # Rounding must not turn n·risk = 3 into 4, nor into 2.
    bentkus = np.e * stats.binom.cdf(np.ceil(n * risks - 1e-9), n, target)
    p_values: npt.NDArray[np.float64] = np.minimum(1.0, np.minimum(hoeffding, bentkus))
    return p_values


def by_means(
    losses: npt.NDArray[np.float64], target: float, confidence: float
) -> npt.NDArray[np.float64]:
    """``hoeffding_bentkus`` of a table; sharp for losses that are 0 or 1. See ``PValues``."""
    return hoeffding_bentkus(losses.mean(axis=0), len(losses), target)


def controlling_risk(
    thresholds: Sequence[float],
    losses: npt.ArrayLike,
    risk: float,
    confidence: float,
    p_values: PValues = by_means,
) -> float | None:
    """The smallest threshold whose risk is at most ``risk``, with probability ``confidence``.

    Learn then Test with a fixed sequence: thresholds are tested from the largest down, each at
    level 1 − confidence, and the first that fails ends it, so no correction for their number is
    needed. The guarantee holds for any distribution, if the units are independent and come from
    the distribution that is met later. For classifiers a unit is a sample and its loss whether it
    disagrees with the full model; for policies it is an episode played at that threshold and the
    share of its decisions that disagree.

    Args:
        thresholds: T candidates, ascending.
        losses: (N, T) in 0 … 1.
        risk: Largest expected loss allowed.
        confidence: Such as 0.95.
        p_values: What tests each threshold; chosen without looking at the losses.

    Returns:
        τ, or None if even the largest candidate cannot be shown to be safe: the full model must
        answer then.

    Raises:
        UserError: ``risk`` or ``confidence`` is not between 0 and 1.
    """
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not 0 < value < 1:
            raise UserError(f"--{name} must be between 0 and 1, not {value:g}")
    table = np.asarray(losses, float)
    if not len(table):
        return None
    tested = p_values(table, risk, confidence).tolist()
    chosen = None
    for threshold, p in zip(reversed(thresholds), reversed(tested), strict=True):
        # NaN shows nothing to be safe.
        if not p <= 1 - confidence:
            break
        chosen = threshold
    return chosen


def fewest_units(risk: float, confidence: float, p_values: PValues = by_means) -> int:
    """Units that it takes to show a risk to be controlled if none of them has any loss.

    Args:
        risk: 0 < risk < 1.
        confidence: Such as 0.95.
        p_values: What tests it.
    """

    def shown(n: int) -> bool:
        return bool(p_values(np.zeros((n, 1)), risk, confidence)[0] <= 1 - confidence)

    # Fewer show nothing to any test: losses of 1 at this rate may have missed them all.
    lowest = math.ceil(math.log(1 - confidence) / math.log(1 - risk))
    enough = lowest
    while not shown(enough):
        enough *= 2
    return bisect_left(range(enough), True, lo=lowest, key=shown)


def disagreement(
    confidences: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    full: npt.NDArray[np.int64],
    thresholds: Sequence[float],
) -> npt.NDArray[np.float64]:
    """Whether each sample's answer differs from the full model's, at each threshold.

    Args:
        confidences: (N, E−1) of the ICs.
        labels: (N, E) of every exit.
        full: (N,) labels of the full model.
        thresholds: T, the same τ for every IC.

    Returns:
        (N, T), 0 or 1: losses for ``controlling_risk``.
    """
    losses = []
    end = np.ones((len(labels), 1), bool)
    for threshold in thresholds:
        leaves = np.concatenate([confidences > threshold, end], axis=1)
        answers = np.take_along_axis(labels, leaves.argmax(axis=1)[:, None], axis=1)[:, 0]
        losses.append(answers != full)
    table: npt.NDArray[np.float64] = np.array(losses, float).T
    return table


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
        UserError: No common threshold is within the budget.
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
    start = within(budget)(accuracies, math.nan, means)
    if start is None:
        raise UserError(
            f"--budget {budget:g} is below the lowest cost of a common threshold, {means.min():.3f}"
        )
    best = [candidates[start]] * n_ics
    for _ in range(n_sweeps):
        for m in range(n_ics):
            options = {t: score([*best[:m], t, *best[m + 1 :]]) for t in (best[m], *candidates)}
            affordable = {t: s for t, s in options.items() if s[1] <= budget}
            # Of equally accurate ones the cheapest, which leaves room for the other ICs.
            best[m] = max(affordable, key=lambda t: (affordable[t][0], -affordable[t][1]))
    return tuple(best)
