"""Which confidence threshold τ an agent is exported or timed with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ztw_rl import recipes, runs
from ztw_rl.errors import UserError

TABLE = "curve.csv"


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, or what it is chosen for; at most one of them."""

    threshold: float | None = None
    """Confidence above which an exit answers; 0.9 if nothing else is asked for."""
    budget: float | None = None
    """The best threshold that costs at most this share of the backbone, such as 0.6."""
    keep: float | None = None
    """The cheapest threshold that keeps this share of the full model's return, such as 0.95,
    counted from a random policy's."""
    cost: Literal["time", "macs"] = "time"
    """What --budget and --keep count: measured time or operations."""
    calibration: Path | None = None
    """Folder of the eval run whose curve.csv they choose from; by default the agent's own table,
    else the game's newest eval run."""

    def __post_init__(self) -> None:
        given = [self.threshold, self.budget, self.keep]
        if sum(value is not None for value in given) > 1:
            raise UserError("--threshold, --budget and --keep exclude one another; give one")


def choose(point: OperatingPoint, agent: Path, game: str, runs_dir: Path) -> float:
    """The threshold that is asked for.

    Args:
        point: What the user wants.
        agent: The agent's folder.
        game: Name without separators.
        runs_dir: Usually ``runs``.

    Raises:
        UserError: There is no calibration run, or no threshold of it will do.
    """
    if point.budget is None and point.keep is None:
        return 0.9 if point.threshold is None else point.threshold
    import pandas as pd

    from ztw_rl.core.calibration import keeping, within_budget

    path = _table(point, agent, game, runs_dir)
    try:
        table = pd.read_csv(path)
        swept = table[table["rule"] == "confidence"].sort_values("threshold")
        full = float(table.loc[table["rule"] == "backbone", "return_mean"].iloc[0])
        taus, quality = swept["threshold"].tolist(), swept["return_mean"].tolist()
        costs = swept[f"relative_{point.cost}"].tolist()
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise UserError(f"{path} is no table of ztw-rl eval ({error})") from None
    if not taus:
        raise UserError(f"{path} has no confidence thresholds; evaluate without --rule patience")
    if point.budget is not None:
        return within_budget(taus, costs, quality, point.budget)
    floor = recipes.load(game).random_return or 0.0
    return keeping(taus, costs, quality, full, floor, point.keep or 0.0)


def _table(point: OperatingPoint, agent: Path, game: str, runs_dir: Path) -> Path:
    if point.calibration is not None:
        given = point.calibration
        path = given / TABLE if given.is_dir() else given
        if not path.is_file():
            raise UserError(f"--calibration {given}: there is no {TABLE}")
        return path
    newest = runs.newest(runs_dir, "eval", game)
    for folder in (agent, newest):
        if folder is not None and (folder / TABLE).is_file():
            return folder / TABLE
    raise UserError("--budget and --keep need a calibration run; make one with: ztw-rl eval")
