"""``ztw-rl supervised eval``: accuracy of early-exit classifiers against what it costs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ztw_rl import runs
from ztw_rl.commands._arguments import flat, read
from ztw_rl.commands.supervised._shared import newest_classifier
from ztw_rl.console import plain_console
from ztw_rl.errors import UserError
from ztw_rl.supervised.config import FallbackName

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ztw_rl.supervised.classifier import Classifier
    from ztw_rl.supervised.config import ICRun
    from ztw_rl.supervised.data.datasets import Split
    from ztw_rl.supervised.evaluate import Answers, Contender

PROG = "ztw-rl supervised eval"
KIND = "supervised-eval"
SEEDS_AND_PLACES = (
    *("seed", "data.split_seed", "backbone", "ics", "selected_on", "training.gates"),
    *("data.data_path", "data.n_workers", "data.n_test"),
)
"""What runs that make one row may differ in."""


@dataclass(frozen=True)
class Eval:
    """Measure early-exit classifiers: accuracy within budgets, at every threshold, per exit.

    Runs of one method that differ in seed become one row, mean and standard deviation. Writes
    budgets.csv, curve.csv, exits.csv, curve.png and exits.png, and its settings in eval.json.
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
    paths = args.models or (newest_classifier(args.runs_dir),)
    runs.check_writable(args.output or args.runs_dir / KIND)
    if args.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, not {args.batch_size}")

    from ztw_rl.core.device import resolve_device
    from ztw_rl.core.files import save_json
    from ztw_rl.supervised.classifier import load_classifier
    from ztw_rl.supervised.evaluate import budget_table, curve_table, exit_table

    device = resolve_device(args.device)
    classifiers = {str(path): load_classifier(path) for path in _once(paths)}
    _check_comparable(classifiers, args.n_test)
    found: list[Contender] = []
    for path, classifier in classifiers.items():
        found += _evaluate(path, classifier, args, device)
    first = next(iter(classifiers.values())).config.run
    run = EvalRun(tuple(classifiers), args.fallback, args.n_test)
    output = args.output or runs.create(args.runs_dir, KIND, first.title, run)
    budgets = budget_table(found)
    title = f"{first.arch}, {first.data.data}"
    save_json(output / "eval.json", asdict(run))
    _write(output, title, budgets, curve_table(found), exit_table(found))
    plain_console().print(_screen(budgets, title))
    print(f"results: {output}/budgets.csv, curve.csv, exits.csv; pictures: curve.png, exits.png")
    return 0


def _once(paths: Sequence[Path]) -> list[Path]:
    """Each classifier once, whether its run or its folder is named."""
    from ztw_rl.supervised.classifier import FOLDER

    found: dict[Path, Path] = {}
    for path in paths:
        inside = path / FOLDER
        found.setdefault((inside if inside.is_dir() else path).resolve(), path)
    return list(found.values())


def _check_comparable(classifiers: dict[str, Classifier], n_test: int | None) -> None:
    """All in one table: the same network on the same images, and in one row nothing but seeds.

    Raises:
        UserError: Two differ.
    """
    trained = {path: classifier.config.run for path, classifier in classifiers.items()}
    first = next(iter(trained))
    of_method: dict[str, str] = {}
    for path, run in trained.items():
        same = of_method.setdefault(run.method, path)
        pairs = [
            (first, ("arch", "data.data", *_test_split(trained[first], n_test))),
            (same, [name for name in flat(run) if name not in SEEDS_AND_PLACES]),
        ]
        for other, names in pairs:
            theirs, ours = flat(trained[other]), flat(run)
            for name in names:
                if theirs[name] != ours[name]:
                    raise UserError(
                        f"{path} has another {name} than {other} ({ours[name]}, not "
                        f"{theirs[name]}); evaluate it apart"
                    )


def _test_split(run: ICRun, n_test: int | None) -> tuple[str, ...]:
    """Settings that tell which images test."""
    if n_test is not None:
        return ("data.split_seed",)
    return ("data.n_test",) if run.data.n_test is None else ("data.n_test", "data.split_seed")


def _evaluate(
    path: str, classifier: Classifier, args: Eval, device: torch.device
) -> list[Contender]:
    """One pass over the test images, and one over held-out ones where there are any."""
    from ztw_rl.supervised.evaluate import collect_answers, contenders, data_of

    run = classifier.config.run
    costs = classifier.relative_macs()
    gate_costs = classifier.judged("gate").relative_macs() if run.training.gates else ()
    data = data_of(classifier, args.data_path, args.n_test)

    def answers(split: Split) -> Answers:
        return collect_answers(classifier, Path(path), data, split, device, args.batch_size)

    held_out = answers("held_out") if run.selected_on == "held_out" else None
    return contenders(run.method, path, answers("test"), held_out, costs, args.fallback, gate_costs)


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

    from ztw_rl.supervised.budgets import BUDGETS

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
