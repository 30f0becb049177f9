"""Statistics of a handful of episodes.

Source: Agarwal et al., "Deep RL at the Edge of the Statistical Precipice" (2021).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
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


def few_distinct(episodes: Collection[Hashable]) -> int | None:
    """How many episodes differ, if at most half of several do; None otherwise.

    Where chance hardly disturbs a policy it knows few courses of the game. An interval weighs
    those that were played, and nothing of a rarer one that was not.

    Args:
        episodes: What tells each of them from the others.
    """
    distinct = len(set(episodes))
    return distinct if 1 < len(episodes) >= 2 * distinct else None
