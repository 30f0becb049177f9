"""Evaluation tables as they were stored: ``curve.json``, read back and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ztw_rl.core.choice import Costs
from ztw_rl.core.files import load_json
from ztw_rl.core.statistics import few_distinct
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import WEIGHTS_FILE, Identity
from ztw_rl.rl.atari.games import canonical
from ztw_rl.rl.config import ActionMode, MethodName
from ztw_rl.schema import parse_stored

CostName = Literal["macs", "time"]
ADAPTIVE = ("confidence", "patience", "student")
"""Rules of the rows that a table is about; the others are its controls."""


@dataclass(frozen=True)
class StoredRow:
    """One row: who decided which exit answers, and what came of it."""

    rule: str
    returns: tuple[float, ...]
    """Raw points of each game, in the order of the seeds."""
    decisions: tuple[int, ...]
    """Of each game."""
    macs: tuple[float, ...]
    """Mean operations of a decision in each game, relative to the backbone's."""
    time: tuple[float, ...]
    """The same for measured time."""
    threshold: float | None = None
    disagreement: tuple[float, ...] | None = None
    """Share of each game's decisions that differ from the full model's, if it was asked."""

    def first(self, n: int) -> StoredRow:
        """The row of its first n games alone."""
        differs = self.disagreement
        return dataclasses.replace(
            self,
            returns=self.returns[:n],
            decisions=self.decisions[:n],
            macs=self.macs[:n],
            time=self.time[:n],
            disagreement=None if differs is None else differs[:n],
        )

    @property
    def course(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Returns and lengths: rows that agree in these have played the same games."""
        return self.returns, self.decisions

    @property
    def games(self) -> tuple[tuple[float, int, float], ...]:
        """Return, decisions and operations of each game; see ``told_apart``.

        Where exits are drawn at random, operations are the draw's, not the game's: 0.
        """
        macs = (0.0,) * len(self.macs) if self.rule == "random" else self.macs
        return tuple(zip(self.returns, self.decisions, macs, strict=True))

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the games' returns."""
        return float(np.std(self.returns))

    @property
    def relative_macs(self) -> float:
        """Mean operations of a decision, relative to the backbone's."""
        return float(decision_costs([self], "macs").on()[0])

    @property
    def relative_time(self) -> float:
        """Mean time of a decision, relative to the backbone's."""
        return float(decision_costs([self], "time").on()[0])


@dataclass(frozen=True)
class StoredTable:
    """One ``curve.json``."""

    game: str
    rule: Literal["confidence", "patience"]
    seed: int
    action_mode: ActionMode
    backend: str
    method: MethodName
    identity: Identity
    """Weights it was made with."""
    rows: tuple[StoredRow, ...]
    exits: tuple[str, ...] | None = None
    """Places of the ICs; early tables do not tell."""
    student_of: str | None = None
    """Students only: the exit whose operations they match."""
    noop_max: int = 0
    """How its games began; 0 is equal starts, which older tables do not mention."""
    path: Path = Path()
    """The file."""

    @property
    def n_games(self) -> int:
        """Games of each row."""
        return len(self.rows[0].returns)

    @property
    def adaptive(self) -> tuple[StoredRow, ...]:
        """The rows that the table is about."""
        return tuple(row for row in self.rows if row.rule in ADAPTIVE)

    @property
    def backbone(self) -> StoredRow | None:
        """The full policy's row; a student's table has none."""
        return next((row for row in self.rows if row.rule == "backbone"), None)


def told_apart(row: StoredRow, rows: Sequence[StoredRow]) -> tuple[tuple[float, int, float], ...]:
    """What tells a row's games from one another.

    Return and length alone do not: many games can end with equal points after equally many
    decisions. What they cost does, where samples leave early; and a setting whose games agree
    with this row's in return and length, one by one, has played the same ones.

    Args:
        row: Whose games.
        rows: What else was played on the same seeds.

    Returns:
        The games of the row among these that tells most of them apart.
    """
    same = [row, *(other for other in rows if other.course == row.course)]
    return max((each.games for each in same), key=lambda games: len(set(games)))


def hardly_differ(row: StoredRow, rows: Sequence[StoredRow]) -> bool:
    """Whether at most half of a row's games are distinct; see ``core.statistics.few_distinct``.

    Args:
        row: Whose games.
        rows: What else was played on the same seeds.
    """
    return few_distinct(told_apart(row, rows)) is not None


def decision_costs(rows: Sequence[StoredRow], kind: CostName) -> Costs:
    """(T, n) costs of some rows, game by game.

    Args:
        rows: T.
        kind: Operations or measured time.
    """
    means = np.array([row.macs if kind == "macs" else row.time for row in rows], float)
    return Costs(means, np.array([row.decisions for row in rows], float))


def load_table(path: Path) -> StoredTable:
    """Read a table.

    Args:
        path: What ``ztw-rl eval`` wrote, ``curve.json`` or a copy of it under another name.

    Raises:
        UserError: The file is missing, damaged, or no such table.
    """
    data = load_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("evaluation"), dict):
        raise UserError(f"{path} is no table of ztw-rl eval; make one with: ztw-rl eval")
    known = _only(StoredTable, data)
    known.pop("path", None)
    evaluation = data["evaluation"]
    known |= {"action_mode": evaluation.get("action_mode")}
    known |= {"noop_max": evaluation["noop_max"]} if "noop_max" in evaluation else {}
    rows = data.get("rows")
    if isinstance(rows, list):
        known["rows"] = [_only(StoredRow, row) if isinstance(row, dict) else row for row in rows]
    table = dataclasses.replace(parse_stored(StoredTable, known, path), path=path)
    if not table.adaptive or (table.backbone is None and table.method != "student"):
        raise UserError(f"{path} lacks rows; evaluate the agent again with: ztw-rl eval")
    lengths = {
        len(each)
        for row in table.rows
        for each in (row.returns, row.decisions, row.macs, row.time, row.disagreement)
        if each is not None
    }
    if lengths != {table.n_games} or not table.n_games:
        raise UserError(f"{path}: its rows differ in their number of games; evaluate again")
    return table


def check_game(table: StoredTable, game: str) -> None:
    """A table is of a game.

    Args:
        table: The table.
        game: Name without separators.

    Raises:
        UserError: It is of another.
    """
    if canonical(table.game) != game:
        raise UserError(f"{table.path} is a table of {table.game}, not of {game}")


def foreign(table: StoredTable, folder: Path) -> UserError:
    """The complaint about a table that was not played with the weights of an agent's folder."""
    return UserError(
        f"{table.path} was made with other weights than {folder / WEIGHTS_FILE}; make it again "
        f"with: ztw-rl eval --agent {folder}"
    )


def _only(kind: Any, data: dict[str, Any]) -> dict[str, Any]:
    """What a dataclass knows of ``data``; tables hold more than is read back."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in data.items() if name in names}
