"""``ztw-rl eval``: return of an early-exit agent against what its decisions cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from ztw_rl import agents, recipes, runs
from ztw_rl.atari.config import EvaluationConfig
from ztw_rl.atari.games import canonical
from ztw_rl.commands._arguments import parse, peek
from ztw_rl.core.thresholds import parse_thresholds
from ztw_rl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from ztw_rl.atari.agent import Agent
    from ztw_rl.atari.evaluate import RowResult
    from ztw_rl.core.timing import ExitTimes

KIND = "eval"
KEEP = (0.99, 0.95, 0.88)
"""Shares of the backbone's return over random play for which the cost is looked up."""


@dataclass(frozen=True)
class Eval:
    """Play full games with an early-exit agent at several thresholds, on raw points.

    Writes curve.csv, curve.json and curve.png: per threshold the return, what a decision cost,
    and how often each exit answered; beside it each exit forced alone, exits drawn at random in
    the same shares, and the backbone.
    """

    thresholds: str = "0.1:0.9"
    """start:stop or start:stop:step (stop included, step 0.1), or a comma list. With
    --rule patience: how many exits in a row must agree, such as 1,2,3."""
    rule: Literal["confidence", "patience"] = "confidence"
    """Leave when the highest probability exceeds the threshold, or when exits agree (PBEE)."""
    agent: str | None = None
    """A shipped agent's name, an agent's folder or a distillation run; by default the newest
    distillation run, else the shipped agent."""
    output: Path | None = None
    """Folder for the results; by default a new one in runs/eval."""
    seed: int = 0
    """Game k of every row has seed + k."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    evaluation: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(
        default_factory=EvaluationConfig
    )
    """How many games, and how they are played."""


@dataclass(frozen=True)
class EvalRun:
    """Resolved settings, saved beside the results."""

    agent: str
    thresholds: tuple[float, ...]
    rule: str
    seed: int
    evaluation: EvaluationConfig


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl eval --help``.

    Returns:
        0.

    Raises:
        UserError: The command line or the agent has an error.
    """
    early = peek(arguments, "agent", "runs-dir")

    def find() -> Path:
        return agents.find(early["agent"] or None, Path(early["runs-dir"] or "runs"))

    args = parse(
        Eval,
        arguments,
        "ztw-rl eval",
        lambda: Eval(evaluation=recipes.load(_game(find())).evaluation),
    )
    folder = find()
    thresholds = parse_thresholds(args.thresholds)
    if args.rule == "patience" and any(t < 1 or t != int(t) for t in thresholds):
        raise UserError(f"--thresholds {args.thresholds}: patience counts exits, such as 1,2,3")
    runs.check_writable(args.output or args.runs_dir / KIND)
    return _evaluate(args, folder, thresholds)


def _game(folder: Path) -> str:
    """The game an agent plays, read without loading torch."""
    import json

    config = folder / agents.CONFIG_FILE
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["atari"]["game"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{config} is damaged; restore it") from None


def _evaluate(args: Eval, folder: Path, thresholds: list[float]) -> int:
    """Play, time, print and write."""
    from rich.console import Console

    from ztw_rl.atari.agent import load_agent
    from ztw_rl.atari.evaluate import table
    from ztw_rl.core.device import resolve_device

    console = Console()
    device = resolve_device(args.device)
    agent = load_agent(folder)
    costs, times = _cost(agent)
    results = _play(args, agent, thresholds, device, console)
    frame = table(results, costs, times.relative)
    run = EvalRun(str(folder), tuple(thresholds), args.rule, args.seed, args.evaluation)
    game = canonical(agent.config.atari.game)
    output = args.output or runs.create(args.runs_dir, KIND, game, run)
    kept = _kept(results, frame, recipes.load(game).random_return)
    _write(output, game, run, frame, results, times, kept)
    console.print(_screen(frame, game))
    for keep, found in kept.items():
        console.print(
            f"to keep {keep:.0%} of the backbone's return over random play: {found['cost']:.3f} of "
            f"its MACs, {found['kept']:.1%} kept (chosen and reported on different games)"
        )
    console.print(f"times: {times.backend}, one thread; results: {output}/curve.csv, curve.json")
    console.print(f"picture: {output}/curve.png")
    return 0


def _cost(agent: Agent) -> tuple[tuple[float, ...], ExitTimes]:
    """Operations and times per exit, before any game keeps the processor busy."""
    from ztw_rl.core.backends.staged import eager
    from ztw_rl.core.cost import exit_costs
    from ztw_rl.core.timing import time_exits

    x = agent.example()
    return exit_costs(agent.model, x).relative_macs, time_exits(eager(agent.model), x)


def _play(
    args: Eval, agent: Agent, thresholds: list[float], device: Any, console: Console
) -> list[RowResult]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from ztw_rl.atari.emulators import make_batches
    from ztw_rl.atari.evaluate import evaluate, n_games

    settings = args.evaluation
    total = n_games(len(thresholds), agent.model.n_exits, settings.n_episodes)
    batches = make_batches(agent.config.atari, min(settings.n_envs, total))
    progress = Progress(
        TextColumn("games"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    try:
        with progress:
            task = progress.add_task("", total=total)
            return evaluate(
                agent.model.to(device),
                batches,
                thresholds,
                rule=args.rule,
                n_episodes=settings.n_episodes,
                seed=args.seed,
                action_mode=settings.action_mode,
                device=device,
                on_game=lambda game: progress.advance(task),
            )
    finally:
        for emulators in batches:
            emulators.close()


def _write(
    output: Path,
    game: str,
    run: EvalRun,
    frame: pd.DataFrame,
    results: list[RowResult],
    times: ExitTimes,
    kept: dict[float, dict[str, Any]],
) -> None:
    """The three files, each at once or not at all."""
    from ztw_rl.core.checkpoint import save_json, write_atomically
    from ztw_rl.plots import plot_curve

    write_atomically(output / "curve.csv", lambda p: frame.to_csv(p, index=False))
    rows = [
        {name: None if value != value else value for name, value in line.items()}
        for line in frame.to_dict("records")
    ]
    for row, result in zip(rows, results, strict=True):
        row |= {"returns": result.returns, "decisions": result.n_decisions}
    save_json(
        output / "curve.json",
        {
            "game": game,
            **dataclasses.asdict(run),
            "backend": times.backend,
            "kept": [{"keep": keep, **found} for keep, found in kept.items()],
            "rows": rows,
        },
    )
    settings = run.evaluation
    note = (
        f"{settings.n_episodes} full games per point, {settings.action_mode} actions, seeds from "
        f"{run.seed}; bands: 95 % bootstrap over episodes (evaluation noise only); "
        f"time: {times.backend}, one thread"
    )
    plot_curve(frame, f"{game}: return against inference cost", note, output / "curve.png")


def _kept(
    results: list[RowResult], frame: pd.DataFrame, random_return: float | None
) -> dict[float, dict[str, Any]]:
    """What keeping each of ``KEEP`` costs; nothing where that cannot be told."""
    import numpy as np

    from ztw_rl.core.selection import cheapest

    returns = np.array([result.returns for result in results])
    adaptive = frame["rule"].isin(["confidence", "patience"]).to_numpy()
    full = returns[(frame["rule"] == "backbone").to_numpy()][0]
    costs = frame["relative_macs"].to_numpy()[adaptive]
    thresholds = frame["threshold"].to_numpy()[adaptive]
    found: dict[float, dict[str, Any]] = {}
    if random_return is None:
        return found
    for keep in KEEP:
        try:
            selection = cheapest(returns[adaptive], costs, full, random_return, keep)
        except ValueError:  # too few games, or a backbone no better than random play
            break
        found[keep] = {
            "cost": selection.cost,
            "kept": selection.kept,
            "thresholds": [None if i is None else float(thresholds[i]) for i in selection.chosen],
        }
    return found


def _screen(frame: pd.DataFrame, game: str) -> Any:
    """The table for the terminal."""
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
        threshold = "" if row["threshold"] != row["threshold"] else f"{row['threshold']:g}"
        shown.add_row(
            row["rule"],
            threshold,
            *(f"{row[f'return_{name}']:.1f}" for name in ("mean", "std", "iqm")),
            f"{row['return_ci_low']:.1f}…{row['return_ci_high']:.1f}",
            *(f"{row[cost]:.3f}" for cost in ("relative_macs", "relative_time")),
            *(f"{row[share]:.0%}" for share in shares),
        )
    return shown
