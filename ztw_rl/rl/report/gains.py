"""How much better one way to choose exits plays than another, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from ztw_rl.core.statistics import Interval, paired_lead
from ztw_rl.rl.report.controls import RANDOM_EXITS, of_kind
from ztw_rl.rl.report.levels import ALL_GAMES
from ztw_rl.rl.report.results import GameResults, Method, MethodResult, setting_name
from ztw_rl.rl.rows import RandomExits
from ztw_rl.rl.tables import StoredRow, hardly_differ


@dataclass(frozen=True)
class Pairing:
    """A method and another in one game: pairs of rows of equal settings and the same seeds."""

    game: str
    method: Method
    over: Method | str
    """Another method, or exits drawn at random in the method's own shares."""
    pairs: Mapping[str, tuple[StoredRow, StoredRow]]
    """By setting; all of equally many games."""
    full: StoredRow
    """The full policy on these seeds."""
    random: float
    """What random play scores."""
    played: tuple[StoredRow, ...]
    """Whatever either of the two played on these seeds."""

    @property
    def n_games(self) -> int:
        """Of each row."""
        return len(self.full.returns)

    def first(self, n: int) -> Pairing:
        """The same of the first n seeds."""
        return replace(
            self,
            pairs={s: (own.first(n), other.first(n)) for s, (own, other) in self.pairs.items()},
            full=self.full.first(n),
            played=tuple(row.first(n) for row in self.played),
        )

    def leads(self, settings: Sequence[str]) -> npt.NDArray[np.float64]:
        """Of each seed: difference of return, mean over settings, in shares of the full policy's.

        Luck that both rows meet cancels, as the emulators' does.

        Args:
            settings: Some of those that it has.

        Returns:
            (n_games,), 1 being the full policy's return over random play.
        """
        rows = (self.pairs[s] for s in settings)
        differences = [np.subtract(own.returns, other.returns) for own, other in rows]
        scale = self.full.mean - self.random
        leads: npt.NDArray[np.float64] = np.mean(differences, axis=0) / scale
        return leads

    def differs(self, setting: str) -> bool:
        """Whether the two rows of a setting played different games at all."""
        own, other = self.pairs[setting]
        return (own.returns, own.decisions) != (other.returns, other.decisions)

    def rests_on_few(self, settings: Sequence[str]) -> bool:
        """Whether, where the rows differ, few games of either do."""
        return any(
            hardly_differ(row, self.played)
            for setting in settings
            if self.differs(setting)
            for row in self.pairs[setting]
        )


@dataclass(frozen=True)
class Gain:
    """A method's lead over another in one game, or over several."""

    game: str
    settings: tuple[str, ...]
    pairings: tuple[Pairing, ...]
    """One of each game, all of equally many seeds."""

    @property
    def n_games(self) -> int:
        """Of each setting in each game."""
        return self.pairings[0].n_games

    @property
    def lead(self) -> Interval:
        """In shares of the full policy's return over random play."""
        return paired_lead(np.array([p.leads(self.settings) for p in self.pairings]))

    @property
    def n_differing(self) -> int:
        """Settings at which the two played different games anywhere."""
        return sum(any(p.differs(s) for p in self.pairings) for s in self.settings)

    @property
    def rests_on_few(self) -> bool:
        """Whether it rests on few different games."""
        return any(p.rests_on_few(self.settings) for p in self.pairings)

    @property
    def relative_macs(self) -> tuple[float, float]:
        """Of the method and of what it is compared with, mean over settings and games."""
        rows = [p.pairs[s] for p in self.pairings for s in self.settings]
        own, other = np.mean([[row.relative_macs for row in pair] for pair in rows], axis=0)
        return float(own), float(other)


def gains(results: Sequence[GameResults]) -> list[Gain]:
    """What choosing by confidence, cascade and ensemble bring, by game and over games.

    Args:
        results: The agents.

    Returns:
        Each method over random exits, where it has such controls; the agent's own method over
        others at common thresholds, where the full policy played the same games beside both;
        then over games what every game has, at the settings that every game has.

    Raises:
        UserError: A game's recipe does not tell what random play scores.
    """
    by_game = [list(_of_game(game)) for game in results]
    found = [Gain(p.game, tuple(p.pairs), (p,)) for pairings in by_game for p in pairings]
    return found + (_over_games(by_game) if len(results) > 1 else [])


def _of_game(game: GameResults) -> Iterator[Pairing]:
    for method in game.methods:
        controls = {setting_name(row): row for row in of_kind(method, RandomExits)}
        yield from _pairing(game, method, RANDOM_EXITS, controls, method.n_games)
    own = game.own
    for other in game.methods:
        # Neither its own table once more nor the same thresholds of another rule.
        n = min(own.n_games, other.n_games)
        if (
            other.table is not own.table
            and other.table.rule == own.table.rule
            and other.table.action_mode == own.table.action_mode
            and own.backbone.first(n).episodes == other.backbone.first(n).episodes
        ):
            yield from _pairing(game, own, other.method, other.settings, n)


def _pairing(
    game: GameResults,
    method: MethodResult,
    over: Method | str,
    others: Mapping[str, StoredRow],
    n: int,
) -> Iterator[Pairing]:
    """The pairing with some rows on the first n seeds; none without settings in common."""
    pairs = {s: (row, others[s]) for s, row in method.settings.items() if s in others}
    if pairs:
        played = (*method.rows, *others.values())
        pairing = Pairing(
            game.game, method.method, over, pairs, method.backbone, game.random, played
        )
        yield pairing.first(n)


def _over_games(by_game: Sequence[Sequence[Pairing]]) -> list[Gain]:
    found = []
    tables = [{(p.method, p.over): p for p in pairings} for pairings in by_game]
    for key, first in tables[0].items():
        if all(key in table for table in tables):
            pairings = tuple(table[key] for table in tables)
            settings = tuple(s for s in first.pairs if all(s in p.pairs for p in pairings))
            if settings:
                n = min(p.n_games for p in pairings)
                found.append(Gain(ALL_GAMES, settings, tuple(p.first(n) for p in pairings)))
    return found


def as_frame(found: Sequence[Gain]) -> pd.DataFrame:
    """The gains for machines.

    Args:
        found: What ``gains`` gives.

    Returns:
        A row per gain, with the 95 % interval ``gain_ci_low`` … ``gain_ci_high``. At
        ``differing`` of the ``settings`` the two played different games; ``alike`` says whether
        few games of one of them differ there; ``relative_macs`` are the method's, and
        ``over_relative_macs`` those of what it is compared with.
    """
    columns = [
        *("game", "method", "over", "settings", "differing", "games"),
        *("gain", "gain_ci_low", "gain_ci_high", "alike", "relative_macs", "over_relative_macs"),
    ]
    rows = []
    for g in found:
        pairing, lead = g.pairings[0], g.lead
        what = (
            g.game,
            str(pairing.method),
            str(pairing.over),
            len(g.settings),
            g.n_differing,
            g.n_games,
        )
        how_much = (lead.center, lead.low, lead.high, "yes" if g.rests_on_few else "no")
        rows.append((*what, *how_much, *g.relative_macs))
    frame: pd.DataFrame = pd.DataFrame(rows, columns=columns)
    return frame


def as_markdown(frame: pd.DataFrame) -> str:
    """The gains for people, and how to read them; empty if there are none.

    Args:
        frame: What ``as_frame`` gives.
    """
    if frame.empty:
        return ""
    lines = [
        f"| {g.game} | {g.method} | {g.over} | {g.settings} ({g.differing}) × {g.games} | "
        f"{g.gain:+.1%} ({g.gain_ci_low:+.1%} … {g.gain_ci_high:+.1%})"
        f"{' ≈' if g.alike == 'yes' else ''} | {g.relative_macs:.3f}, "
        f"{g.over_relative_macs:.3f} |"
        for g in frame.itertuples()
    ]
    return (
        """
| game | method | over | settings × games | how much better (95 % interval) | MACs of both |
|---|---|---|---|---|---|
"""
        + "\n".join(lines)
        + """

How much better a method plays than exits drawn at random in the same shares, and the agent's own
method than others at the same thresholds, in shares of the full policy's return over random play.
Games of the same seed are compared, and a game's difference is the mean over all settings; in
brackets at how many of them the two played different games at all. So only rows of equal settings
compare with one another; and equal thresholds are not equal costs, which are means over the
settings as well. The interval is a bootstrap over seeds. Below 0 the other plays better; where
random exits beat the full policy itself, that is no fault of the rule.
"""
        + _notes(frame)
    )


def _notes(frame: pd.DataFrame) -> str:
    notes = ""
    if (frame["game"] == ALL_GAMES).any():
        notes += f"""\
{ALL_GAMES}: the interquartile mean of all games' differences, each game with equally many and
resampled for itself; in brackets the settings at which any game differs.
"""
    if (frame["alike"] == "yes").any():
        notes += """\
≈: at the settings where the two played different games, at most half of the games of one of them
are distinct, so the interval is too narrow.
"""
    return notes
