"""What choosing between exits can win, and what a rule wins of it.

Exits drawn at random in a rule's own shares cost what the rule costs, and lose some of the full
policy's return: that is the headroom of all rules of these shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ztw_rl.core.choice import Threshold
from ztw_rl.core.statistics import Interval, interval, mean_ratio
from ztw_rl.rl.calibrate import FAR
from ztw_rl.rl.rows import RandomExits
from ztw_rl.rl.tables import StoredRow, StoredTable

LEAST = 0.05
"""Of the full policy's return over random play: with less headroom, no rule can win much."""


@dataclass(frozen=True)
class Headroom:
    """Rules at one cost, on the same games."""

    table: StoredTable
    aim: float
    """What a decision was to cost."""
    rule: StoredRow
    random: StoredRow
    """Exits drawn at random in the rule's shares."""
    beside: StoredRow | None
    """Confidence at the same cost; None where that is the table's own rule."""
    full: StoredRow
    random_return: float
    """What random play scores."""

    @property
    def share(self) -> float:
        """Headroom in shares of the full policy's return over random play."""
        return (self.full.mean - self.random.mean) / (self.full.mean - self.random_return)

    @property
    def is_off(self) -> bool:
        """Whether rows that are compared do not cost the same, up to ``calibrate.FAR``."""
        costs = [self.rule.relative_macs, *([self.beside.relative_macs] if self.beside else [])]
        return max(*costs, self.aim) - min(*costs, self.aim) > FAR + 1e-9

    def recovered(self, row: StoredRow) -> Interval:
        """What a row wins of the headroom: 0 is what random exits score, 1 the full policy."""
        return recovered([self], [row])


def of_table(table: StoredTable, random_return: float) -> list[Headroom]:
    """One for each cost that the table was played at.

    Args:
        table: Of ``ztw-rl eval --costs``.
        random_return: What random play scores.
    """
    assert table.backbone is not None
    beside: list[StoredRow | None] = [
        row for row in table.rows if type(row.who) is Threshold and table.rule != "confidence"
    ]
    rules, drawn = table.adaptive, table.of(RandomExits)
    return [
        Headroom(table, aim, rule, random, other, table.backbone, random_return)
        for aim, rule, random, other in zip(
            table.costs, rules, drawn, beside or [None] * len(rules), strict=True
        )
    ]


def recovered(found: Sequence[Headroom], rows: Sequence[StoredRow]) -> Interval:
    """What rows win of their headrooms, mean over them, with a 95 % paired bootstrap interval.

    Rows of one table are resampled together, tables each for itself.

    Args:
        found: Headrooms of one table or of several.
        rows: One of each.
    """
    return interval(_recovered(found, rows))


def lead(found: Sequence[Headroom], alpha: float = 0.05) -> Interval:
    """How much more the rules win of their headrooms than confidence does, mean over them.

    Args:
        found: Headrooms of one table or of several, each with confidence beside.
        alpha: One minus the level of the paired bootstrap interval.
    """
    return interval(_leads(found), alpha)


def leads_by_game(headrooms: Sequence[Headroom]) -> dict[str, Interval]:
    """The lead over confidence in each game, intervals corrected for how many games there are.

    Of G games the one that is most surely not zero gets the level 1 − 0.05/G, the next
    1 − 0.05/(G−1), and so on, until one contains zero: the rest stay at its level. Source: Holm,
    "A Simple Sequentially Rejective Multiple Test Procedure" (1979).

    Args:
        headrooms: Of several tables, each with confidence beside.
    """
    games: dict[str, list[Headroom]] = {}
    for headroom in headrooms:
        games.setdefault(headroom.table.game, []).append(headroom)
    leads = {game: _leads(own) for game, own in games.items()}

    def p(game: str) -> float:
        resampled = leads[game][1:]
        return 2 * float(min((resampled <= 0).mean(), (resampled >= 0).mean()))

    found: dict[str, Interval] = {}
    left = len(games)
    for game in sorted(games, key=p):
        found[game] = interval(leads[game], 0.05 / left)
        if not found[game].low <= 0 <= found[game].high:
            left -= 1
    return {game: found[game] for game in games}


def _leads(found: Sequence[Headroom]) -> npt.NDArray[np.float64]:
    others = [headroom.beside for headroom in found]
    confident = [other for other in others if other is not None]
    return _recovered(found, [each.rule for each in found]) - _recovered(found, confident)


def _recovered(found: Sequence[Headroom], rows: Sequence[StoredRow]) -> npt.NDArray[np.float64]:
    """(1 + N_RESAMPLES,) the mean recovered share, of all games and of each resample."""
    return mean_ratio(
        [
            (
                str(headroom.table.path),
                np.subtract(row.returns, headroom.random.returns),
                np.subtract(headroom.full.returns, headroom.random.returns),
            )
            for headroom, row in zip(found, rows, strict=True)
        ]
    )


def lines(found: Sequence[Headroom]) -> list[str]:
    """What the rules of a table win, a line for each cost, in words."""
    told = []
    for headroom in found:
        costs = [headroom.rule.relative_macs]
        begin = f"at {headroom.aim:g} of the MACs"
        if headroom.share < LEAST:
            told.append(
                f"{begin} random exits lose {headroom.share:.1%} of the return over random play: "
                "no rule can win much"
            )
            continue
        won = [
            f"the {headroom.table.rule} rule recovers {_spelled(headroom.recovered(headroom.rule))}"
        ]
        if headroom.beside is not None:
            won.append(f"confidence {_spelled(headroom.recovered(headroom.beside))}")
            costs.append(headroom.beside.relative_macs)
        realised = " and ".join(f"{cost:.3f}" for cost in costs)
        told.append(
            f"{begin} (realised {realised}) random exits lose {headroom.share:.1%} of the return "
            f"over random play; of this loss {' and '.join(won)}"
            + (f"; costs are more than {FAR:g} apart" if headroom.is_off else "")
        )
    return told


def _spelled(interval: Interval) -> str:
    return f"{interval.center:.2f} ({interval.low:.2f} to {interval.high:.2f})"
