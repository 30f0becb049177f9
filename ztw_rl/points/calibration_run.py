"""The evaluation that a threshold is chosen from: ``curve.json`` of ``ztw-rl eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ztw_rl import runs
from ztw_rl.errors import UserError
from ztw_rl.rl.tables import StoredTable, check_game, foreign, judged_as, load_table

if TYPE_CHECKING:
    from ztw_rl.rl.agent import Agent

CURVE = "curve.json"


def find(given: Path | None, agent: Agent, folder: Path, runs_dir: Path) -> Path:
    """The file to choose from.

    Args:
        given: What the user names: an eval run's folder, or its ``curve.json``.
        agent: Whose evaluation it must be.
        folder: The agent's folder, whose own table comes next; the newest eval run that
            thresholds can be chosen from comes last.
        runs_dir: Usually ``runs``.

    Raises:
        UserError: There is none.
    """
    if given is not None:
        path = given / CURVE if given.is_dir() else given
        if not path.is_file():
            raise UserError(f"--calibration {given}: there is no {CURVE}")
        return path
    if (folder / CURVE).is_file():
        return folder / CURVE
    own = newest(agent, runs_dir)
    if own is None:
        raise UserError(
            f"--budget, --keep and --risk need a calibration run of these weights; make one with: "
            f"ztw-rl eval --agent {folder}"
        )
    return own


def newest(agent: Agent, runs_dir: Path) -> Path | None:
    """The newest eval run of these weights that points can be chosen from; None if there is none.

    Args:
        agent: Whose evaluation it must be.
        runs_dir: Usually ``runs``.
    """
    game = agent.config.environment.name
    made = [run / CURVE for run in runs.by_age(runs_dir, "eval", game, holding=CURVE)]
    return next((path for path in made if _serves(path, agent)), None)


def _serves(path: Path, agent: Agent) -> bool:
    """Whether thresholds can be chosen from a table; one that cannot be read may be anybody's."""
    try:
        table = load_table(path)
    except UserError:
        return False
    return table.identity == judged_as(table, agent).identity() and _unfit(table) is None


def _unfit(table: StoredTable) -> str | None:
    """Why no threshold can be chosen from a table, and how to make one that serves."""
    if table.method == "student":
        return "is a student's, which has no exits to choose from"
    if table.rule == "patience":
        return "has no thresholds; evaluate without --rule patience"
    if table.action_mode != "greedy":
        return (
            "was played with sampled actions, and artefacts act greedily; evaluate without "
            "--action-mode sample"
        )
    return None


def load(path: Path, agent: Agent, folder: Path) -> StoredTable:
    """Read an evaluation of an agent.

    Args:
        path: ``curve.json``.
        agent: Who must have played it.
        folder: The agent's folder.

    Raises:
        UserError: The file is damaged, no evaluation, another agent's, or one without thresholds of
            greedy play.
    """
    table = load_table(path)
    check_game(table, agent.config.environment.name)
    unfit = _unfit(table)
    if table.identity != judged_as(table, agent).identity():
        raise foreign(table, folder)
    if unfit:
        raise UserError(f"{path} {unfit}")
    return table
