"""Evaluation tables as they were stored: ``curve.json``, read back and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ztw_rl.core.choice import Costs, Forced, Patience, Threshold, Trial
from ztw_rl.core.files import load_json
from ztw_rl.core.statistics import few_distinct
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import WEIGHTS_FILE, Identity
from ztw_rl.rl.atari.config import canonical
from ztw_rl.rl.config import ActionMode, MethodName
from ztw_rl.settings import parse_stored

RuleName = Literal["confidence", "patience", "backbone", "forced", "random", "student"]
"""A row's name in ``curve.csv``, ``curve.json`` and journals."""


@dataclass(frozen=True)
class Full:
    """The full policy, without any exit."""


@dataclass(frozen=True)
class Student:
    """A student, which answers everything itself."""


@dataclass(frozen=True)
class RandomExits:
    """The control: exits drawn at random, as often as a rule took them."""

    shares: tuple[float, ...]
    """How often each exit is drawn."""
    beside: Threshold | Patience
    """The rule."""

    @cached_property
    def cumulated(self) -> npt.NDArray[np.float64]:
        """(E,) cumulated shares, up to one."""
        sums: npt.NDArray[np.float64] = np.cumsum(self.shares, dtype=np.float64)
        sums /= sums[-1]
        return sums


Adaptive = Threshold | Patience
Who = Adaptive | Forced | RandomExits | Full | Student
"""What decides which exit answers."""


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    who: Who
    compared: bool = False
    """Whether the full model is asked as well, at every decision, to see how often the greedy
    actions differ."""

    @property
    def rule(self) -> RuleName:
        """Its name where it is stored."""
        return _NAMES[type(self.who)]

    @property
    def threshold(self) -> float | None:
        """The number beside that name: τ, a patience or the exit; of a control, its rule's."""
        who = self.who.beside if isinstance(self.who, RandomExits) else self.who
        if isinstance(who, Threshold):
            # A common one: rows of a table have no threshold for each exit.
            (value,) = set(who.each(1))
            return value
        if isinstance(who, Patience):
            return float(who.exits)
        return float(who.exit) if isinstance(who, Forced) else None


_NAMES: dict[type, RuleName] = {
    Threshold: "confidence",
    Patience: "patience",
    Forced: "forced",
    RandomExits: "random",
    Full: "backbone",
    Student: "student",
}


def adaptive(rule: Literal["confidence", "patience"], number: float) -> Adaptive:
    """A rule with its setting, from the name and the number that are stored."""
    return Patience(int(number)) if rule == "patience" else Threshold(number)


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
    def episodes(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Returns and lengths: rows that agree in these have played the same games."""
        return self.returns, self.decisions

    @property
    def games(self) -> tuple[tuple[float, int, float], ...]:
        """Return, decisions and operations of each game; see ``game_keys``.

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


def game_keys(row: StoredRow, rows: Sequence[StoredRow]) -> tuple[tuple[float, int, float], ...]:
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
    same = [row, *(other for other in rows if other.episodes == row.episodes)]
    return max((each.games for each in same), key=lambda games: len(set(games)))


def hardly_differ(row: StoredRow, rows: Sequence[StoredRow]) -> bool:
    """Whether at most half of a row's games are distinct; see ``core.statistics.few_distinct``.

    Args:
        row: Whose games.
        rows: What else was played on the same seeds.
    """
    return few_distinct(game_keys(row, rows)) is not None


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


def trial_of(table: StoredTable, random_return: float | None, cost: CostName = "macs") -> Trial:
    """What ``ztw-rl eval`` measured: each early exit alone, then what its rule was set to.

    Args:
        table: With the full policy on the same games.
        random_return: What random play scores, if it is known.
        cost: What a decision's cost counts.
    """
    assert table.backbone is not None
    forced = _rising(table, "forced")[:-1]
    swept = _rising(table, table.rule)
    rows = [row for _, row in (*forced, *swept)]
    n = len(rows[0].returns)
    asked = [row.disagreement for _, row in swept]
    disagreement = None
    if all(each is not None for each in asked):
        # Nobody asks where an exit is forced.
        unknown = [(np.nan,) * n] * len(forced)
        disagreement = np.array([*unknown, *asked], float).T
    return Trial(
        points=(
            *(Forced(int(m)) for m, _ in forced),
            *(adaptive(table.rule, threshold) for threshold, _ in swept),
        ),
        scores=np.array([row.returns for row in rows], float),
        costs=decision_costs(rows, cost),
        full=np.array(table.backbone.returns, float),
        no_skill=random_return,
        unit="games",
        disagreement=disagreement,
    )


def _rising(table: StoredTable, rule: str) -> list[tuple[float, StoredRow]]:
    """Rows of one rule with their thresholds, rising."""
    rows = [(row.threshold, row) for row in table.rows if row.rule == rule]
    return sorted(((t, row) for t, row in rows if t is not None), key=lambda pair: pair[0])
