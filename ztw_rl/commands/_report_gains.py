"""How much better one way to choose exits plays than another, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ztw_rl import recipes
from ztw_rl.atari.gallery import GameResults, MethodResult, setting_name
from ztw_rl.atari.tables import StoredRow
from ztw_rl.commands._report_controls import RANDOM_EXITS, of_rule
from ztw_rl.core.statistics import Summary, summarize

ALL_GAMES = "mean over games"


@dataclass(frozen=True)
class Gain:
    """A method's lead over another, at the same settings and on the same seeds."""

    game: str
    method: str
    over: str
    """Another method, or exits drawn at random in the method's own shares."""
    settings: tuple[str, ...]
    leads: tuple[float, ...]
    """Of each seed: difference of return, mean over settings, in the full policy's return over
    random play. Luck that both meet cancels, as the emulators' does."""
    relative_macs: float
    """Mean over settings."""
    over_relative_macs: float

    @property
    def lead(self) -> Summary:
        """Over seeds."""
        return summarize(self.leads)


def gains(gallery: Sequence[GameResults]) -> list[Gain]:
    """What choosing by confidence, cascade and ensemble bring, by game and over games.

    Args:
        gallery: The agents.

    Returns:
        Each method over random exits, where it has such controls; the agent's own method over
        every other with thresholds in common; then means over games of what every game has. Games
        whose recipe does not tell what random play scores are left out.
    """
    by_game = [list(_of_game(game)) for game in gallery]
    found = [gain for gains_ in by_game for gain in gains_]
    return found + (_over_games(by_game) if len(gallery) > 1 else [])


def _of_game(game: GameResults) -> Iterator[Gain]:
    floor = recipes.load(game.game).random_return
    if floor is None:
        return
    for method in game.methods:
        controls = {setting_name(row): row for row in of_rule(method, "random")}
        yield from _gain(game.game, method, RANDOM_EXITS, controls, method.n_games, floor)
    own = game.methods[0]
    for other in game.methods[1:]:
        # Not the same thresholds of another rule, nor its own table once more.
        if (
            other.table is not own.table
            and other.table.rule == own.table.rule
            and other.table.action_mode == own.table.action_mode
        ):
            n = min(own.n_games, other.n_games)
            yield from _gain(game.game, own, other.method, other.settings, n, floor)


def _gain(
    game: str,
    method: MethodResult,
    over: str,
    others: dict[str, StoredRow],
    n: int,
    floor: float,
) -> Iterator[Gain]:
    """The gain over some rows on the first n seeds; nothing without settings in common."""
    shared = tuple(s for s in method.settings if s in others)
    if not shared:
        return
    own = [method.settings[s].first(n) for s in shared]
    theirs = [others[s].first(n) for s in shared]
    leads = [np.subtract(a.returns, b.returns) for a, b in zip(own, theirs, strict=True)]
    scale = method.backbone.first(n).mean - floor
    yield Gain(
        game,
        method.method,
        over,
        shared,
        tuple(np.mean(leads, axis=0) / scale),
        *(float(np.mean([row.relative_macs for row in rows])) for rows in (own, theirs)),
    )


def _over_games(by_game: Sequence[Sequence[Gain]]) -> list[Gain]:
    """Means over games, seed by seed: games are independent, so any pairing of theirs will do."""
    found = []
    for first in by_game[0]:
        key = first.method, first.over, first.settings
        same = [g for gains_ in by_game for g in gains_ if (g.method, g.over, g.settings) == key]
        if len(same) == len(by_game):
            n = min(len(g.leads) for g in same)
            found.append(
                Gain(
                    ALL_GAMES,
                    *key,
                    tuple(np.mean([g.leads[:n] for g in same], axis=0)),
                    float(np.mean([g.relative_macs for g in same])),
                    float(np.mean([g.over_relative_macs for g in same])),
                )
            )
    return found


def as_frame(found: Sequence[Gain]) -> pd.DataFrame:
    """The gains for machines.

    Args:
        found: What ``gains`` gives.

    Returns:
        A row per gain, with the 95 % interval ``gain_ci_low`` … ``gain_ci_high``;
        ``relative_macs`` of the method and of what it is compared with.
    """
    columns = [
        *("game", "method", "over", "settings", "games", "gain", "gain_ci_low", "gain_ci_high"),
        *("relative_macs", "over_relative_macs"),
    ]
    rows = []
    for g in found:
        lead = g.lead
        what = (g.game, g.method, g.over, len(g.settings), len(g.leads))
        macs = g.relative_macs, g.over_relative_macs
        rows.append((*what, lead.mean, lead.ci_low, lead.ci_high, *macs))
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
        f"| {g.game} | {g.method} | {g.over} | {g.settings} × {g.games} | {g.gain:+.1%} "
        f"({g.gain_ci_low:+.1%} … {g.gain_ci_high:+.1%}) | {g.relative_macs:.3f}, "
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
Games of the same seed are compared, and a game's difference is the mean over all settings; the
interval is a bootstrap over seeds. Below 0 the other plays better; where random exits beat the
full policy itself, that is no fault of the rule. Costs are means over the settings.
"""
    )
