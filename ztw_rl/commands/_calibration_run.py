"""The evaluation that a threshold is chosen from: ``curve.json`` of ``ztw-rl eval``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ztw_rl import runs
from ztw_rl.core.checkpoint import load_json
from ztw_rl.errors import UserError

CURVE = "curve.json"


@dataclass(frozen=True)
class CalibrationRun:
    """T thresholds, rising, on the same n games as the full model."""

    path: Path
    thresholds: tuple[float, ...]
    returns: npt.NDArray[np.float64]
    """(T, n)."""
    full: npt.NDArray[np.float64]
    """(n,)."""
    costs: npt.NDArray[np.float64]
    """(T,) mean cost of a decision, relative to the backbone's."""
    disagreement: npt.NDArray[np.float64] | None
    """(n, T) share of each game's decisions that differ from the full model's; None if the
    evaluation did not ask the full model."""


def find(given: Path | None, agent: Path, game: str, runs_dir: Path) -> Path:
    """The file to choose from.

    Args:
        given: What the user names: an eval run's folder, or its ``curve.json``.
        agent: The agent's folder, whose own table comes next.
        game: Name without separators; its newest eval run comes last.
        runs_dir: Usually ``runs``.

    Raises:
        UserError: There is none, or the newest run evaluated another agent.
    """
    if given is not None:
        path = given / CURVE if given.is_dir() else given
        if not path.is_file():
            raise UserError(f"--calibration {given}: there is no {CURVE}")
        return path
    if (agent / CURVE).is_file():
        return agent / CURVE
    newest = runs.newest(runs_dir, "eval", game, holding=CURVE)
    if newest is None:
        raise UserError(
            f"--budget, --keep and --risk need a calibration run; make one with: "
            f"ztw-rl eval --agent {agent}"
        )
    path = newest / CURVE
    stored = load_json(path)
    evaluated = stored.get("agent") if isinstance(stored, dict) else None
    if not isinstance(evaluated, str) or Path(evaluated).resolve() != agent.resolve():
        raise UserError(
            f"{path} is of another agent, {evaluated}; make one with: ztw-rl eval --agent {agent}"
        )
    return path


def load(path: Path, cost: str) -> CalibrationRun:
    """Read an evaluation.

    Args:
        path: ``curve.json``.
        cost: ``time`` or ``macs``.

    Raises:
        UserError: The file is damaged, no evaluation, or one without confidence thresholds.
    """
    stored = load_json(path)
    try:
        rows: Sequence[dict[str, Any]] = stored["rows"]
        swept = sorted(
            (row for row in rows if row["rule"] == "confidence"), key=lambda row: row["threshold"]
        )
        (full,) = (row for row in rows if row["rule"] == "backbone")
        asked = bool(swept) and all(row.get("disagreement") for row in swept)
        run = CalibrationRun(
            path=path,
            thresholds=tuple(float(row["threshold"]) for row in swept),
            returns=np.array([row["returns"] for row in swept], float),
            full=np.array(full["returns"], float),
            costs=np.array([row[f"relative_{cost}"] for row in swept], float),
            disagreement=(
                np.array([row["disagreement"] for row in swept], float).T if asked else None
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no evaluation of ztw-rl eval ({error!r})") from None
    if not run.thresholds:
        raise UserError(f"{path} has no confidence thresholds; evaluate without --rule patience")
    if run.returns.shape != (len(run.thresholds), len(run.full)):
        raise UserError(f"{path}: rows differ in their number of games; evaluate again")
    return run
