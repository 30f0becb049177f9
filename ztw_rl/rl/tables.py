"""An agent's evaluation as a table: ``curve.csv`` and ``curve.json``, written, read and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ztw_rl.core.choice import Costs, Forced, Patience, Threshold, Trial
from ztw_rl.core.files import load_json, save_json, write_atomically
from ztw_rl.core.statistics import few_distinct
from ztw_rl.decision import Rule, bound
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import WEIGHTS_FILE, Identity
from ztw_rl.rl.atari.config import canonical
from ztw_rl.rl.config import CSV, JSON, ActionMode, EvalRun, MethodName, gate_for
from ztw_rl.rl.rows import (
    AdaptiveName,
    Full,
    RandomExits,
    Row,
    RuleName,
    Student,
    Who,
    adaptive,
    stored,
)
from ztw_rl.settings import parse_stored

if TYPE_CHECKING:
    import pandas as pd

    from ztw_rl.core.bench import ExitTimes
    from ztw_rl.rl.agent import Agent
    from ztw_rl.rl.evaluate import RowResult

CostName = Literal["macs", "time"]


@dataclass(frozen=True)
class StoredRow:
    """One row: what decided which exit answers, and what came of it."""

    who: Who
    returns: tuple[float, ...]
    """Raw points of each game, in the order of the seeds."""
    decisions: tuple[int, ...]
    """Of each game."""
    macs: tuple[float, ...]
    """Mean operations of a decision in each game, relative to the backbone's."""
    time: tuple[float, ...]
    """The same for measured time."""
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
        macs = (0.0,) * len(self.macs) if isinstance(self.who, RandomExits) else self.macs
        return tuple(zip(self.returns, self.decisions, macs, strict=True))

    @property
    def threshold(self) -> float | None:
        """The number that it is stored with; see ``rows.Row.threshold``."""
        return Row(self.who).threshold

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


@dataclass(frozen=True, kw_only=True)
class _Head:
    """What a table is of, as it is stored."""

    game: str
    rule: AdaptiveName
    seed: int
    action_mode: ActionMode
    backend: str
    method: MethodName
    identity: Identity
    """Weights it was made with."""
    exits: tuple[str, ...] | None = None
    """Places of the ICs; early tables do not tell."""
    student_of: str | None = None
    """Students only: the exit whose operations they match."""
    noop_max: int = 0
    """How its games began; 0 is equal starts, which older tables do not mention."""
    random_return: float | None = None
    """What random play scores, where no recipe says it."""
    costs: tuple[float, ...] = ()
    """What decisions were to cost, if thresholds were found for that."""


@dataclass(frozen=True, kw_only=True)
class StoredTable(_Head):
    """One ``curve.json``."""

    rows: tuple[StoredRow, ...]
    path: Path
    """The file."""

    @property
    def n_games(self) -> int:
        """Games of each row."""
        return len(self.rows[0].returns)

    @property
    def adaptive(self) -> tuple[StoredRow, ...]:
        """The rows that the table is about."""
        own = type(adaptive(self.rule, 1))
        return tuple(row for row in self.rows if type(row.who) in (own, Student))

    @property
    def backbone(self) -> StoredRow | None:
        """The full policy's row; a student's table has none."""
        return next(iter(self.of(Full)), None)

    @property
    def flags(self) -> tuple[str, ...]:
        """What ``ztw-rl eval`` is told to play such a table again."""
        if self.costs:
            return "--rule", self.rule, "--costs", ",".join(f"{cost:g}" for cost in self.costs)
        if self.rule == "confidence":
            return ()
        numbers = ",".join(f"{row.threshold:g}" for row in self.adaptive)
        return "--rule", self.rule, f"--thresholds={numbers}"

    def of(self, *kinds: type[Who]) -> tuple[StoredRow, ...]:
        """The rows in which one of these decides."""
        return tuple(row for row in self.rows if isinstance(row.who, kinds))


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


@dataclass(frozen=True)
class _Line:
    """One row as it is stored, as far as it is read back."""

    rule: RuleName
    returns: tuple[float, ...]
    decisions: tuple[int, ...]
    macs: tuple[float, ...]
    time: tuple[float, ...]
    threshold: float | None = None
    disagreement: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class _File(_Head):
    """A table as it is stored, as far as it is read back."""

    rows: tuple[_Line, ...]


def save_table(
    folder: Path,
    agent: Agent,
    run: EvalRun,
    results: Sequence[RowResult],
    times: Mapping[Rule, ExitTimes],
    random_return: float | None = None,
) -> tuple[StoredTable, pd.DataFrame]:
    """Write ``curve.csv`` and ``curve.json``, each at once or not at all.

    Args:
        folder: Where to.
        agent: Who played.
        run: The evaluation's settings.
        results: What was played.
        times: Measured times of leaving at each exit, by what exits are judged by.
        random_return: What random play scores, if no recipe says it.

    Returns:
        The table as ``load_table`` reads it, and ``curve.csv``, a line per row; see
        ``evaluate.table``.
    """
    from ztw_rl.rl.evaluate import table

    mode = run.evaluation.action_mode
    macs = {rule: agent.judged(rule, mode).relative_macs() for rule in times}
    seconds = {rule: found.relative for rule, found in times.items()}
    frame = table(results, macs, seconds)
    write_atomically(folder / CSV, lambda path: frame.to_csv(path, index=False))
    rows = [
        {name: None if value != value else value for name, value in line.items()}
        for line in frame.to_dict("records")
    ]
    for row, result in zip(rows, results, strict=True):
        row |= {
            "returns": result.returns,
            "decisions": tuple(map(sum, result.exits)),
            "macs": result.costs(macs),
            "time": result.costs(seconds),
        }
        if result.disagreement is not None:
            row["disagreement"] = result.disagreement
    save_json(
        folder / JSON,
        {
            "game": agent.config.environment.name,
            "method": agent.config.method,
            "exits": agent.config.exits,
            "student_of": agent.config.student_of,
            "identity": dataclasses.asdict(agent.judged(list(times)[-1], mode).identity()),
            **dataclasses.asdict(run),
            "backend": times["confidence"].backend,
            "random_return": random_return,
            "rows": rows,
        },
    )
    return load_table(folder / JSON), frame


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
    known, lines = _only(_File, data), data.get("rows")
    if isinstance(lines, list):
        known["rows"] = [_only(_Line, line) if isinstance(line, dict) else line for line in lines]
    evaluation = data["evaluation"]
    known |= {"action_mode": evaluation.get("action_mode")}
    known |= {"noop_max": evaluation["noop_max"]} if "noop_max" in evaluation else {}
    file = parse_stored(_File, known, path)
    # Exits are drawn as often as the rule took them.
    shares = {
        line.threshold: _shares(whole)
        for line, whole in zip(file.rows, data["rows"], strict=True)
        if line.rule == file.rule
    }
    try:
        rows = tuple(
            StoredRow(
                stored(line.rule, line.threshold, file.rule, shares.get(line.threshold, ())),
                *(line.returns, line.decisions, line.macs, line.time, line.disagreement),
            )
            for line in file.rows
        )
    except UserError as error:
        raise UserError(f"{path}: {error}; evaluate again") from None
    head = {field.name: getattr(file, field.name) for field in dataclasses.fields(_Head)}
    found = StoredTable(**head, rows=rows, path=path)
    if not found.adaptive or (found.backbone is None and found.method != "student"):
        raise UserError(f"{path} lacks rows; evaluate the agent again with: ztw-rl eval")
    # Confidence may stand beside the table's own rule.
    known_rules = {type(adaptive(found.rule, 1)), Threshold}
    others = {type(row.who) for row in found.of(Threshold, Patience)} - known_rules
    if others:
        raise UserError(
            f"{path}: its rule is {found.rule}, but it has rows of another; evaluate again"
        )
    lengths = {
        len(each)
        for row in found.rows
        for each in (row.returns, row.decisions, row.macs, row.time, row.disagreement)
        if each is not None
    }
    if lengths != {found.n_games} or not found.n_games:
        raise UserError(f"{path}: its rows differ in their number of games; evaluate again")
    return found


def _shares(line: dict[str, Any]) -> tuple[float, ...]:
    """How often each exit answered, as far as a stored row tells."""
    shares = (value for name, value in line.items() if name.startswith("exit_share_"))
    return tuple(share for share in shares if isinstance(share, int | float))


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


def judged_as(table: StoredTable, agent: Agent) -> Agent:
    """The agent with exits judged as in a table; as it is, if it has no such gates."""
    rule = table.rule
    if rule == "patience":
        return agent
    if rule == "gate" and gate_for(table.action_mode) not in agent.config.gates:
        return agent
    return agent.judged(rule, table.action_mode)


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
    # The last exit is the full model at a higher price.
    forced = _rising(table.of(Forced))[:-1]
    swept = _rising(table.adaptive)
    rows = [*forced, *swept]
    n = len(rows[0].returns)
    asked = [row.disagreement for row in swept]
    disagreement = None
    if all(each is not None for each in asked):
        # Nobody asks where an exit is forced.
        unknown = [(np.nan,) * n] * len(forced)
        disagreement = np.array([*unknown, *asked], float).T
    return Trial(
        points=tuple(row.who for row in rows if isinstance(row.who, Forced | Threshold | Patience)),
        scores=np.array([row.returns for row in rows], float),
        costs=decision_costs(rows, cost),
        full=np.array(table.backbone.returns, float),
        no_skill=random_return,
        unit="games",
        disagreement=disagreement,
    )


def _rising(rows: Sequence[StoredRow]) -> list[StoredRow]:
    """Rows of one kind by their number, of thresholds from bold to cautious."""

    def caution(row: StoredRow) -> float:
        rule = row.who.rule if isinstance(row.who, Threshold) else "confidence"
        return bound(rule, row.threshold or 0)

    return sorted(rows, key=caution)
