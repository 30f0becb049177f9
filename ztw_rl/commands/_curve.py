"""What ``ztw-rl eval`` leaves: files, and a table for the terminal."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ztw_rl.rl.config import EvaluationConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from ztw_rl.core.bench import ExitTimes
    from ztw_rl.rl.agent import Agent
    from ztw_rl.rl.evaluate import RowResult
    from ztw_rl.rl.tables import StoredTable

CSV, JSON, PNG = "curve.csv", "curve.json", "curve.png"
JOURNAL = "games.jsonl"
"""The games of an evaluation that is not finished."""


@dataclass(frozen=True)
class EvalRun:
    """Resolved settings, saved beside the results."""

    agent: str
    thresholds: tuple[float, ...]
    rule: Literal["confidence", "patience"]
    disagreement: bool
    ensembles: bool
    seed: int
    evaluation: EvaluationConfig
    backend: Literal["eager", "compiled", "onnx"]
    """Its name on the command line; in ``curve.json``, the name for tables."""
    device: str
    """Where the games' network ran."""


def write(
    output: Path,
    agent: Agent,
    run: EvalRun,
    frame: pd.DataFrame,
    results: list[RowResult],
    macs: Sequence[float],
    times: ExitTimes,
) -> None:
    """The three files, each at once or not at all; a student's single row has no picture."""
    from ztw_rl.core.files import save_json, write_atomically
    from ztw_rl.plots import plot_curve
    from ztw_rl.rl.atari.config import canonical

    game = canonical(agent.config.atari.game)
    write_atomically(output / CSV, lambda p: frame.to_csv(p, index=False))
    rows = [
        {name: None if value != value else value for name, value in line.items()}
        for line in frame.to_dict("records")
    ]
    for row, result in zip(rows, results, strict=True):
        row |= {
            "returns": result.returns,
            "decisions": tuple(map(sum, result.exits)),
            "macs": result.costs(macs),
            "time": result.costs(times.relative),
        }
        if result.disagreement is not None:
            row["disagreement"] = result.disagreement
    save_json(
        output / JSON,
        {
            "game": game,
            "method": agent.config.method,
            "exits": agent.config.exits,
            "student_of": agent.config.student_of,
            "identity": dataclasses.asdict(agent.identity()),
            **dataclasses.asdict(run),
            "backend": times.backend,
            "rows": rows,
        },
    )
    if not agent.has_exits:
        return
    settings = run.evaluation
    note = (
        f"{settings.n_episodes} full games per point, {settings.action_mode} actions, seeds from "
        f"{run.seed}, noop_max {settings.noop_max}; bands: 95 % bootstrap over episodes "
        f"(evaluation noise only); time: {times.backend}, one thread"
    )
    plot_curve(frame, f"{game}: return against inference cost", note, output / PNG)


def kept_lines(table: StoredTable, random_return: float | None) -> list[str]:
    """What keeping each share of ``KEEP`` costs, in words; nothing where that cannot be told.

    Args:
        table: ``curve.json``.
        random_return: Mean return of random play, if the recipe knows it.
    """
    from ztw_rl.core.choice import KEEP, Keep, expected
    from ztw_rl.rl.tables import trial_of

    if random_return is None or table.backbone is None:
        return []
    trial = trial_of(table, random_return)
    if len(trial) < EvaluationConfig.n_episodes:
        few = f"{len(trial)} games are too few to tell what keeping a share of the return costs"
        return [f"{few}; play more with --n-episodes"]
    lines = []
    for keep in KEEP:
        found = expected(Keep(keep), trial)
        if found is None or found.kept is None:  # too few games, or no better than random play
            break
        lines.append(
            f"to keep {keep:.0%} of the backbone's return over random play: {found.cost:.3f} of "
            f"its MACs, {found.kept:.1%} kept (chosen and reported on different games)"
        )
    return lines


def screen(frame: pd.DataFrame, game: str, exits: Sequence[str]) -> Any:
    """The table for the terminal.

    Args:
        frame: The table.
        game: Whose title it gets.
        exits: Where the ICs are.
    """
    import pandas as pd
    from rich.box import SIMPLE
    from rich.table import Table

    shares = [c for c in frame.columns if c.startswith("exit_share_")]
    places = [f"x{m}: {place}" for m, place in enumerate([*exits, "the policy"])]
    shown = Table(
        title=f"{game}: full games on raw points",
        caption="at: threshold, or the exit forced; MACs and time of a decision: the backbone's "
        "are 1; share of decisions that each exit took, " + ", ".join(places),
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
