"""What ``ztw-rl eval`` leaves: files, and a table for the terminal."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ztw_rl.atari.config import EvaluationConfig

if TYPE_CHECKING:
    import pandas as pd

    from ztw_rl.atari.agent import Agent
    from ztw_rl.atari.evaluate import RowResult
    from ztw_rl.core.timing import ExitTimes

CSV, JSON, PNG = "curve.csv", "curve.json", "curve.png"


@dataclass(frozen=True)
class EvalRun:
    """Resolved settings, saved beside the results."""

    agent: str
    thresholds: tuple[float, ...]
    rule: str
    disagreement: bool
    seed: int
    evaluation: EvaluationConfig


def write(
    output: Path,
    agent: Agent,
    run: EvalRun,
    frame: pd.DataFrame,
    results: list[RowResult],
    times: ExitTimes,
    kept: dict[float, dict[str, Any]],
) -> None:
    """The three files, each at once or not at all; a student's single row has no picture."""
    from ztw_rl.atari.games import canonical
    from ztw_rl.core.checkpoint import save_json, write_atomically
    from ztw_rl.plots import plot_curve

    game = canonical(agent.config.atari.game)
    write_atomically(output / CSV, lambda p: frame.to_csv(p, index=False))
    rows = [
        {name: None if value != value else value for name, value in line.items()}
        for line in frame.to_dict("records")
    ]
    for row, result in zip(rows, results, strict=True):
        row |= {"returns": result.returns, "decisions": result.n_decisions}
        if result.disagreement is not None:
            row["disagreement"] = result.disagreement
    save_json(
        output / JSON,
        {
            "game": game,
            "method": agent.config.method,
            "student_of": agent.config.student_of,
            "identity": dataclasses.asdict(agent.identity()),
            **dataclasses.asdict(run),
            "backend": times.backend,
            "kept": [{"keep": keep, **found} for keep, found in kept.items()],
            "rows": rows,
        },
    )
    if agent.is_student:
        return
    settings = run.evaluation
    note = (
        f"{settings.n_episodes} full games per point, {settings.action_mode} actions, seeds from "
        f"{run.seed}; bands: 95 % bootstrap over episodes (evaluation noise only); "
        f"time: {times.backend}, one thread"
    )
    plot_curve(frame, f"{game}: return against inference cost", note, output / PNG)


def kept_shares(
    results: list[RowResult], frame: pd.DataFrame, random_return: float | None
) -> dict[float, dict[str, Any]]:
    """What keeping each share of ``KEEP`` costs; nothing where that cannot be told."""
    import numpy as np

    from ztw_rl.core.selection import KEEP, cross_fit, keeping

    returns = np.array([result.returns for result in results])
    adaptive = frame["rule"].isin(["confidence", "patience"]).to_numpy()
    full = returns[(frame["rule"] == "backbone").to_numpy()]
    costs = frame["relative_macs"].to_numpy()[adaptive]
    thresholds = frame["threshold"].to_numpy()[adaptive]
    found: dict[float, dict[str, Any]] = {}
    if random_return is None or not len(full):
        return found
    for keep in KEEP:
        try:
            choose = keeping(costs, random_return, keep)
            selection = cross_fit(choose, returns[adaptive], costs, full[0], random_return)
        except ValueError:  # too few games, or a backbone no better than random play
            break
        found[keep] = {
            "cost": selection.cost,
            "kept": selection.kept,
            "thresholds": [None if i is None else float(thresholds[i]) for i in selection.chosen],
        }
    return found


def screen(frame: pd.DataFrame, game: str) -> Any:
    """The table for the terminal."""
    import pandas as pd
    from rich.box import SIMPLE
    from rich.table import Table

    shares = [c for c in frame.columns if c.startswith("exit_share_")]
    shown = Table(
        title=f"{game}: full games on raw points",
        caption="at: threshold, or the exit forced; MACs and time of a decision: the backbone's "
        "are 1; x0, x1, …: share of decisions that each exit took",
        box=SIMPLE,
        padding=0,
        pad_edge=False,
    )
    heads = ["rule", "at", "mean", "std", "IQM", "95 %", "MACs", "time"]
    for head in [*heads, *(f"x{m}" for m in range(len(shares)))]:
        shown.add_column(head, justify="left" if head == "rule" else "right", no_wrap=True)
    previous = None
    for _, row in frame.iterrows():
        if previous not in (None, row["rule"]):
            shown.add_section()
        previous = row["rule"]
        threshold = "" if pd.isna(row["threshold"]) else f"{row['threshold']:g}"
        shown.add_row(
            row["rule"],
            threshold,
            *(f"{row[f'return_{name}']:.1f}" for name in ("mean", "std", "iqm")),
            f"{row['return_ci_low']:.1f}…{row['return_ci_high']:.1f}",
            *(f"{row[cost]:.3f}" for cost in ("relative_macs", "relative_time")),
            *(f"{row[share]:.0%}" for share in shares),
        )
    return shown
