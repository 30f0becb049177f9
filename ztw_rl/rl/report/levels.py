"""What keeping a share of the full model's score costs, in one game or over several.

Source: Agarwal et al., "Deep RL at the Edge of the Statistical Precipice" (2021), for the
interquartile mean (IQM) over games and the bootstrap that is stratified by game.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from ztw_rl.core.choice import KEEP, Costs, Floats, Units, by_halves, cheapest_keeping, halves
from ztw_rl.errors import UserError
from ztw_rl.rl.report.results import GameResults, Method, MethodResult, games_and_backends
from ztw_rl.rl.tables import CostName, StoredRow, decision_costs, hardly_differ

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


ALL_GAMES = "IQM over games"


@dataclass(frozen=True)
class Entry:
    """One line of the table."""

    game: str
    method: Method
    settings: tuple[str, ...]
    """What it was chosen from."""
    n_games: int
    """Of each setting in each game."""
    level: Level
    relative_time: float
    """Of a decision at what was chosen, on the games that the level's cost is of."""
    rests_on_few: bool
    """Whether few of the games that it rests on differ; see ``core.statistics.few_distinct``."""

    @property
    def chosen(self) -> str:
        """The settings chosen on the two halves of the games."""
        names = ["backbone" if i is None else self.settings[i] for i in self.level.selection.chosen]
        return "/".join(dict.fromkeys(names))


def levels(results: Sequence[GameResults]) -> list[Entry]:
    """All lines of the table: each game's methods, then what they cost over games.

    Raises:
        UserError: A game has no random score, or a table holds too few games.
    """
    entries = [
        entry
        for game in results
        for method in game.methods
        for entry in _levels(game.game, [game], [method])
    ]
    return entries + (_over_games(results) if len(results) > 1 else [])


def _over_games(results: Sequence[GameResults]) -> list[Entry]:
    """Of each method that every game has, at settings that every game has."""
    entries = []
    tables = [{method.method: method for method in game.methods} for game in results]
    for name in tables[0]:
        if all(name in table for table in tables):
            entries += _levels(ALL_GAMES, results, [table[name] for table in tables])
    return entries


def _levels(
    name: str, games: Sequence[GameResults], methods: Sequence[MethodResult]
) -> list[Entry]:
    """One line for each share to keep."""
    settings = [s for s in methods[0].settings if all(s in m.settings for m in methods)]
    if not settings:
        return []
    # Equally many games of each.
    n = min(method.n_games for method in methods)
    rows = [[method.settings[s] for s in settings] for method in methods]
    try:
        paired = PairedScores(
            scores=np.array([[row.returns[:n] for row in of_game] for of_game in rows]),
            costs=_costs(rows, "macs", n),
            full=np.array([method.backbone.returns[:n] for method in methods]),
            random=np.array([game.random for game in games]),
        )
    except ValueError as error:
        raise UserError(f"{', '.join(str(m.path) for m in methods)}: {error}") from None
    labels, times = tuple(settings), _costs(rows, "time", n)
    entries = []
    for keep in KEEP:
        level = paired.level(keep)
        chosen = [settings[i] for i in level.selection.chosen if i is not None]
        few = any(_rests_on_few(method, chosen, n) for method in methods)
        time = paired.cost_in(times, level.selection)
        entries.append(Entry(name, methods[0].method, labels, n, level, time, few))
    return entries


def _costs(rows: Sequence[Sequence[StoredRow]], name: CostName, n: int) -> Costs:
    """(G, T, n) from G games' T settings."""
    costs = [decision_costs(of_game, name) for of_game in rows]
    return Costs(
        np.array([each.means[:, :n] for each in costs]),
        np.array([each.decisions[:, :n] for each in costs]),
    )


def _rests_on_few(method: MethodResult, chosen: Sequence[str], n: int) -> bool:
    """Whether few of the full policy's first n games differ, or of a chosen setting's."""
    full = method.backbone.first(n)
    played = [row.first(n) for row in method.rows]
    return any(
        hardly_differ(row, played) for row in [full, *(method.settings[s].first(n) for s in chosen)]
    )


def as_frame(entries: Sequence[Entry]) -> pd.DataFrame:
    """The table for machines.

    Args:
        entries: What ``levels`` gives.

    Returns:
        A row per entry. ``keep`` is the share asked for, ``kept`` the one found on other games,
        with the 95 % interval ``kept_ci_low`` … ``kept_ci_high``, all of the full policy's return
        over random play; ``relative_macs`` and ``relative_time`` are the cost on those games, the
        full policy's being 1; ``separated`` says whether the interval stays clear of the other
        shares; ``settings`` and ``games`` count what was chosen from; ``alike`` says whether few of
        the full policy's games differ, or of a chosen setting's.
    """
    frame: pd.DataFrame = pd.DataFrame(
        {
            "game": entry.game,
            "method": str(entry.method),
            "keep": entry.level.keep,
            "relative_macs": entry.level.selection.cost,
            "threshold": entry.chosen,
            "kept": entry.level.selection.kept,
            "kept_ci_low": entry.level.low,
            "kept_ci_high": entry.level.high,
            "separated": "no" if entry.level.unclear(KEEP) else "yes",
            "settings": len(entry.settings),
            "games": entry.n_games,
            "alike": "yes" if entry.rests_on_few else "no",
            "relative_time": entry.relative_time,
        }
        for entry in entries
    )
    return frame


def as_markdown(entries: Sequence[Entry], results: Sequence[GameResults]) -> str:
    """The table for people, and how to read it.

    Args:
        entries: What ``levels`` gives.
        results: What they come from.
    """
    lines = [
        "| game | method | settings × games | "
        + " | ".join(f"asked for {keep:.0%}: MACs, time, kept" for keep in KEEP)
        + " |",
        f"|---|---|---|{'---|' * len(KEEP)}",
    ]
    for i in range(0, len(entries), len(KEEP)):
        cells = [
            f"{e.level.selection.cost:.3f}, {e.relative_time:.2f}, "
            f"{e.level.selection.kept:.1%} ({e.chosen})"
            f"{' ~' if e.level.unclear(KEEP) else ''}{' ≈' if e.rests_on_few else ''}"
            for e in entries[i : i + len(KEEP)]
        ]
        first = entries[i]
        grid = f"{len(first.settings)} × {first.n_games}"
        lines.append(f"| {first.game} | {first.method} | {grid} | {' | '.join(cells)} |")
    return (
        "\n".join(lines)
        + f"""

In each cell the cheapest cost (share of the full policy's MACs) that should keep the share asked
for of its return over random play, the share of its time that this took, and what it kept; in
brackets the setting: threshold, patience, exit, or the exit whose cost a student has. One exit:
always the same one; random exits: drawn in the shares of each threshold. Each is chosen on one half
of the seeds and reported on the other, cost, time and return alike, swapped and averaged; two
settings mean that the halves chose differently. Times of one table compare with one another, those
of different tables may have met other machines.
~: the 95 % bootstrap interval of what was kept reaches another of the levels, so the games cannot
tell them apart. Evaluation noise only: one training seed each.
{_few_distinct_note(entries)}{_over_games_note(results)}{_starts_note(results)}{_note(results)}.
"""
    )


def _few_distinct_note(entries: Sequence[Entry]) -> str:
    if not any(entry.rests_on_few for entry in entries):
        return ""
    return """\
≈: at most half of the full policy's games differ, or of the setting's, by return, length and
cost, so what was kept is that of a few courses of the game: rarer ones are not in its interval.
"""


def _over_games_note(results: Sequence[GameResults]) -> str:
    if len(results) < 2:
        return ""
    return f"""{ALL_GAMES}: of all games' episodes, each normalised by its game's full policy.
One setting, of those that all games have, serves them all; each game counts with equally many
episodes, its first; the cost is the games' mean.
"""


def _starts_note(results: Sequence[GameResults]) -> str:
    equal = [game.game for game in results if game.own.table.noop_max == 0]
    if not equal:
        return ""
    return f"""\
Equal starts (noop_max 0, every game begins after the same frame): {", ".join(equal)}.
"""


def _note(results: Sequence[GameResults]) -> str:
    """Games per setting and what measured the times."""
    return games_and_backends([m.n_games for game in results for m in game.methods], results)
