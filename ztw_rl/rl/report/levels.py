"""What keeping a share of the full model's score costs, in one game or over several.

Source: Agarwal et al., "Deep RL at the Edge of the Statistical Precipice" (2021), for the
interquartile mean (IQM) over games and the bootstrap that is stratified by game.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from ztw_rl.core.choice import Costs, Floats, Units, by_halves, cheapest_keeping, halves

N_RESAMPLES = 2000


@dataclass(frozen=True)
class CrossFit:
    """What choosing costs and keeps, on games that were not chosen on."""

    chosen: tuple[int | None, int | None]
    """Setting chosen on each half of the seeds; None where only the full model would do."""
    cost: float
    """Mean cost of the two choices, relative to the full model."""
    kept: float
    """Mean share kept by each choice on the half that it was not chosen on."""


@dataclass(frozen=True)
class Level:
    """One target: what was chosen for it, what that costs, and how sure what it kept is."""

    keep: float
    """Share to keep."""
    selection: CrossFit
    low: float
    """95 % percentile-bootstrap interval of the share kept, the choices as they are."""
    high: float

    def unclear(self, levels: Iterable[float]) -> bool:
        """Whether the interval reaches another level: the data cannot tell the two apart.

        So it does if it has no bounds: in resamples a full model may be no better than random.
        """
        others = (other for other in levels if other != self.keep)
        return not all(self.high < other or self.low > other for other in others)


@dataclass(frozen=True)
class PairedScores:
    """Settings and the full model on the same seeds of one or more games.

    Within a game a share is the ratio of mean scores over random play. Over games, episodes are
    normalised by their game's full model and pooled, and a share is the ratio of the IQMs.
    """

    scores: Floats
    """(G, T, n), of each game, setting and seed."""
    costs: Costs
    """(G, T, n), of each game, setting and seed; over games, their mean counts."""
    full: Floats
    """(G, n) of the full model."""
    random: Floats
    """(G,) mean score of random play."""

    def __post_init__(self) -> None:
        for half in halves(self.full.shape[1]):
            if np.any(self.full[:, half].mean(axis=1) <= self.random):
                raise ValueError("the full model is no better than random play")

    def shares(self, setting: int, seeds: Units) -> Floats:
        """What a setting keeps, in each of R resamples.

        Args:
            setting: Which.
            seeds: (R, G, k), the episodes that each resample counts.

        Returns:
            (R,).
        """
        games = np.arange(len(self.full))[:, None]
        own = self.scores[games, setting, seeds] - self.random[:, None]
        full = self.full[games, seeds] - self.random[:, None]
        if len(self.full) == 1:
            means: Floats = own.mean(axis=(1, 2)) / full.mean(axis=(1, 2))
            return means
        scale = full.mean(axis=2, keepdims=True)
        return _iqm(own / scale) / _iqm(full / scale)

    def level(self, keep: float, seed: int = 0) -> Level:
        """The cheapest setting that keeps ``keep``, chosen and reported on different seeds.

        Args:
            keep: Share of the full model's score over random play.
            seed: Of the bootstrap.

        Raises:
            ValueError: There are fewer than two seeds.
        """
        n_games, n = self.full.shape

        def costs(seeds: Units) -> Floats:
            means: Floats = self.costs.on(seeds).mean(axis=0)
            return means

        def cost(setting: int, seeds: Units) -> float:
            return float(costs(seeds)[setting])

        def share(setting: int, seeds: Units) -> float:
            return float(self.shares(setting, np.tile(seeds, (1, n_games, 1)))[0])

        def pick(seeds: Units) -> int | None:
            kept = [share(setting, seeds) for setting in range(self.scores.shape[1])]
            return cheapest_keeping(np.array(kept), 1.0, costs(seeds), 0.0, keep)

        (first, on_second), (second, on_first) = by_halves(pick, n)
        worth = [
            (1.0, 1.0) if setting is None else (cost(setting, seeds), share(setting, seeds))
            for setting, seeds in ((first, on_second), (second, on_first))
        ]
        mean_cost, mean_kept = np.mean(worth, axis=0)
        selection = CrossFit((first, second), float(mean_cost), float(mean_kept))
        rng = np.random.default_rng(seed)
        kept = []
        # What is chosen on the one half is reported on the other; agent and full model meet the
        # same resampled episodes.
        for setting, report in zip(selection.chosen, halves(n)[::-1], strict=True):
            if setting is None:
                kept.append(np.ones(N_RESAMPLES))
            else:
                drawn = rng.choice(report, size=(N_RESAMPLES, n_games, len(report)))
                kept.append(self.shares(setting, drawn))
        low, high = np.percentile(np.mean(kept, axis=0), (2.5, 97.5))
        return Level(keep, selection, float(low), float(high))

    def cost_in(self, costs: Costs, selection: CrossFit) -> float:
        """What both choices cost by another measure, on the seeds that they are reported on.

        Args:
            costs: (G, T, n), such as times where operations were chosen by.
            selection: What was chosen.
        """
        reported = halves(self.full.shape[1])[::-1]
        found = [
            1.0 if setting is None else costs.on(seeds).mean(axis=0)[setting]
            for setting, seeds in zip(selection.chosen, reported, strict=True)
        ]
        return float(np.mean(found))


def _iqm(values: npt.NDArray[np.float64]) -> Floats:
    """(R,) interquartile mean of all episodes of all games, from (R, G, k)."""
    means: Floats = stats.trim_mean(values.reshape(len(values), -1), 0.25, axis=1)
    return means
