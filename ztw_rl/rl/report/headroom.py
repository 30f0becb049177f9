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
from ztw_rl.core.statistics import N_RESAMPLES, Interval
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
    rng = np.random.default_rng(0)
    drawn: dict[str, npt.NDArray[np.int64]] = {}
    centers, resampled = [], []
    for headroom, row in zip(found, rows, strict=True):
        lost = np.subtract(headroom.full.returns, headroom.random.returns)
        won = np.subtract(row.returns, headroom.random.returns)
        key = str(headroom.table.path)
        if key not in drawn:
            drawn[key] = rng.integers(len(lost), size=(N_RESAMPLES, len(lost)))
        index = drawn[key]
        with np.errstate(divide="ignore", invalid="ignore"):
            centers.append(won.mean() / lost.mean())
            resampled.append(won[index].mean(axis=1) / lost[index].mean(axis=1))
    low, high = np.nanpercentile(np.mean(resampled, axis=0), (2.5, 97.5))
    return Interval(float(np.mean(centers)), float(low), float(high))


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
        )
    return told


def _spelled(interval: Interval) -> str:
    return f"{interval.center:.2f} ({interval.low:.2f} to {interval.high:.2f})"
