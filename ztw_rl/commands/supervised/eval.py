"""``ztw-rl supervised eval``: accuracy of early-exit classifiers against what it costs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ztw_rl import runs
from ztw_rl.commands._arguments import read
from ztw_rl.commands._console import plain_console
from ztw_rl.commands.supervised._answers import collect_answers, data_of
from ztw_rl.commands.supervised._shared import IC_KIND, newest
from ztw_rl.errors import UserError
from ztw_rl.supervised.config import FallbackName

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ztw_rl.supervised.classifier import Classifier
    from ztw_rl.supervised.data.datasets import Split
    from ztw_rl.supervised.evaluate import Answers, Contender

PROG = "ztw-rl supervised eval"
KIND = "supervised-eval"


@dataclass(frozen=True)
class Eval:
    """Measure early-exit classifiers: accuracy within budgets, at every threshold, per exit.

    Runs of one method that differ in seed become one row, mean and standard deviation. Writes
    budgets.csv, curve.csv, exits.csv, curve.png and exits.png.
    """

    models: tuple[Path, ...] = ()
    """Runs of train-ics, or their classifier folders; by default the newest run."""
    fallback: FallbackName = "last"
    """Who answers where no IC is confident: the last exit, or the most confident (SDN's rule)."""
    data_path: str | None = None
    """Where the images are, if not where they were at training."""
    n_test: int | None = None
    """Use only this many test images, drawn at random."""
    batch_size: int = 256
    """Images at once."""
    output: Path | None = None
    """Folder for the results; by default a new one in runs/supervised-eval."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""


@dataclass(frozen=True)
class EvalRun:
    """Resolved settings, saved beside the results."""

    models: tuple[str, ...]
    fallback: FallbackName
    n_test: int | None


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl supervised eval --help``.

    Returns:
        0.

    Raises:
        UserError: The command line, a model or the data has an error.
    """
    args = read(Eval, arguments, PROG)
    paths = args.models or (newest(args.runs_dir, IC_KIND, "ztw-rl supervised train-ics"),)
    runs.check_writable(args.output or args.runs_dir / KIND)
    if args.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, not {args.batch_size}")

    from ztw_rl.core.device import resolve_device
    from ztw_rl.supervised.classifier import load_classifier
    from ztw_rl.supervised.evaluate import budget_table, curve_table, exit_table

    device = resolve_device(args.device)
    classifiers = {str(path): load_classifier(path) for path in paths}
    _check_comparable(classifiers)
    found: list[Contender] = []
    for path, classifier in classifiers.items():
        found += _evaluate(path, classifier, args, device)
    first = next(iter(classifiers.values())).config.run
    run = EvalRun(tuple(classifiers), args.fallback, args.n_test)
    output = args.output or runs.create(args.runs_dir, KIND, f"{first.arch}-{first.data.data}", run)
    budgets = budget_table(found)
    title = f"{first.arch}, {first.data.data}"
    _write(output, title, budgets, curve_table(found), exit_table(found))
    plain_console().print(_screen(budgets, title))
    print(f"results: {output}/budgets.csv, curve.csv, exits.csv; pictures: curve.png, exits.png")
    return 0


def _check_comparable(classifiers: dict[str, Classifier]) -> None:
    """All in one table: the same network on the same data."""
    path, first = next(iter(classifiers.items()))
    for other_path, other in classifiers.items():
        for name in ("arch", "data"):
            ours, theirs = getattr(first.config.run, name), getattr(other.config.run, name)
            if (ours if name == "arch" else ours.data) != (
                theirs if name == "arch" else theirs.data
            ):
                raise UserError(f"{other_path} has another {name} than {path}; evaluate it apart")


def _evaluate(
    path: str, classifier: Classifier, args: Eval, device: torch.device
) -> list[Contender]:
    """One pass over the test images, and one over held-out ones where there are any."""
    from ztw_rl.supervised.evaluate import contenders

    run = classifier.config.run
    costs = classifier.relative_macs()
    data = data_of(classifier, args.data_path, args.n_test)

    def answers(split: Split) -> Answers:
        return collect_answers(classifier, Path(path), data, split, device, args.batch_size)

    held_out = answers("held_out") if run.selected_on == "held_out" else None
    return contenders(run.method, path, answers("test"), held_out, costs, args.fallback)


def _write(
    output: Path, title: str, budgets: pd.DataFrame, curve: pd.DataFrame, exits: pd.DataFrame
) -> None:
    """The files, each at once or not at all."""
    from ztw_rl.core.files import write_atomically
    from ztw_rl.plots import plot_accuracy, plot_exits

    for name, table in (("budgets", budgets), ("curve", curve), ("exits", exits)):
        write_atomically(output / f"{name}.csv", functools.partial(table.to_csv, index=False))
    plot_accuracy(curve, budgets, title, output / "curve.png")
    plot_exits(exits, title, output / "exits.png")


def _screen(budgets: pd.DataFrame, title: str) -> Any:
    """The table for the terminal: accuracy, realised cost below it."""
    from rich.table import Table

    from ztw_rl.core.budgets import BUDGETS

    heads = [b if isinstance(b, str) else f"{b:.0%}" for b in BUDGETS]
    shown = Table(title=f"{title}: accuracy (relative MACs) within a budget")
    for head in ("method", "chosen on", *heads):
        shown.add_column(head, justify="left" if head in ("method",) else "right")
    for (method, chosen), rows in budgets.groupby(["method", "selected_on"], sort=False):
        cells = []
        for budget in BUDGETS:
            row = rows[rows["budget"] == budget]
            empty = row.empty or row["accuracy"].isna().all()
            cells.append(
                "-"
                if empty
                else f"{row['accuracy'].iloc[0]:.2%} ({row['relative_macs'].iloc[0]:.2f})"
            )
        shown.add_row(str(method), str(chosen), *cells)
    return shown
