"""Statistics of a handful of episodes.

Source: Agarwal et al., "Deep RL at the Edge of the Statistical Precipice" (2021).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

N_RESAMPLES = 10_000


@dataclass(frozen=True)
class Summary:
    """One row's returns in five numbers."""

    mean: float
    std: float
    """Of the episodes themselves, divided by n."""
    iqm: float
    """Interquartile mean: of the middle half."""
    ci_low: float
    """95 % percentile-bootstrap interval of the mean, over episodes."""
    ci_high: float


def summarize(values: npt.ArrayLike, seed: int = 0) -> Summary:
    """Mean, spread and the uncertainty of the mean.

    Args:
        values: (n,), n ≥ 1. A single value has an interval of no width.
        seed: Of the bootstrap.
    """
    x = np.asarray(values, dtype=float)
    mean = float(x.mean())
    low = high = mean
    if np.ptp(x) > 0:
        interval = stats.bootstrap(
            (x,),
            np.mean,
            n_resamples=N_RESAMPLES,
            confidence_level=0.95,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return Summary(mean, float(x.std()), float(stats.trim_mean(x, 0.25)), low, high)


@dataclass(frozen=True)
class Interval:
    """A figure and its interval, of 95 % unless something else is said."""

    center: float
    low: float
    high: float


def paired_lead(leads: npt.NDArray[np.float64], seed: int = 0) -> Interval:
    """Of one task the mean lead, over several the IQM of all tasks' leads.

    The interval is a percentile bootstrap that resamples seeds of each task for itself.

    Args:
        leads: (G, n) of each task and seed, n ≥ 1.
        seed: Of the bootstrap.
    """
    if len(leads) == 1:
        one = summarize(leads[0], seed)
        return Interval(one.mean, one.ci_low, one.ci_high)
    n_tasks, n = leads.shape
    drawn = np.random.default_rng(seed).integers(n, size=(N_RESAMPLES, n_tasks, n))
    resampled = leads[np.arange(n_tasks)[:, None], drawn].reshape(N_RESAMPLES, -1)
    low, high = np.percentile(stats.trim_mean(resampled, 0.25, axis=1), (2.5, 97.5))
    return Interval(float(stats.trim_mean(leads.ravel(), 0.25)), float(low), float(high))


def mean_ratio(
    parts: Sequence[tuple[Hashable, npt.ArrayLike, npt.ArrayLike]], seed: int = 0
) -> npt.NDArray[np.float64]:
    """The mean over parts of a ratio of means, and as much of each bootstrap resample.

    Args:
        parts: Of each, what it belongs to, and (n,) numerators and (n,) denominators of the same
            units. Parts of one belonging are resampled together.
        seed: Of the bootstrap.

    Returns:
        (1 + ``N_RESAMPLES``,), the mean ratio itself first.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[Hashable, npt.NDArray[np.int64]] = {}
    ratios = []
    for key, above, below in parts:
        numerators, denominators = np.asarray(above, float), np.asarray(below, float)
        n = len(numerators)
        if key not in drawn:
            resamples = rng.integers(n, size=(N_RESAMPLES, n))
            drawn[key] = np.concatenate([np.arange(n)[None], resamples])
        index = drawn[key]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(numerators[index].mean(axis=1) / denominators[index].mean(axis=1))
    mean: npt.NDArray[np.float64] = np.mean(ratios, axis=0)
    return mean


def interval(values: npt.NDArray[np.float64], alpha: float = 0.05) -> Interval:
    """A figure with its percentile interval.

    Args:
        values: The figure, then that of each resample.
        alpha: One minus the interval's level.
    """
    low, high = np.nanpercentile(values[1:], (50 * alpha, 100 - 50 * alpha))
    return Interval(float(values[0]), float(low), float(high))


def permutation_p(groups: Sequence[npt.ArrayLike], seed: int = 0) -> float:
    """The chance that groups of one population differ in their means as much as these do.

    Values are dealt to the groups anew 9,999 times; what is compared is the sum of squares between
    the groups. The result is at least 1/10,000.

    Source: Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses" (2005).

    Args:
        groups: Two or more, each (n_g,), n_g ≥ 1.
        seed: Of the dealing.
    """
    values = [np.asarray(group, float) for group in groups]
    pooled = np.concatenate(values)
    if np.ptp(pooled) == 0:
        return 1.0
    center = pooled.mean()

    def between(*samples: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
        parts = [s.shape[axis] * (s.mean(axis=axis) - center) ** 2 for s in samples]
        total: npt.NDArray[np.float64] = np.sum(parts, axis=0)
        return total

    found = stats.permutation_test(
        values,
        between,
        vectorized=True,
        n_resamples=N_RESAMPLES - 1,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def few_distinct(episodes: Collection[Hashable]) -> int | None:
    """How many episodes differ, if at most half of several do; None otherwise.

    An interval weighs the episodes that were played, and nothing of a rarer one that was not.

    Args:
        episodes: What tells each of them from the others.
    """
    distinct = len(set(episodes))
    return distinct if 1 < len(episodes) >= 2 * distinct else None
