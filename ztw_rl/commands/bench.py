"""``ztw-rl bench``: how long an agent's decisions take, by backend, batch size and threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import tyro

from ztw_rl import agents, runs
from ztw_rl.commands._arguments import read
from ztw_rl.console import plain_console
from ztw_rl.core.backends.names import BackendName
from ztw_rl.decision import Rule
from ztw_rl.errors import UserError
from ztw_rl.points.policy import OperatingPoint, choose
from ztw_rl.points.targets import Proposal
from ztw_rl.settings import Count, Ranged, Seed

if TYPE_CHECKING:
    from torch import Tensor

    from ztw_rl.core.bench import Latency
    from ztw_rl.core.deployable import Deployable
    from ztw_rl.core.runtime import Backend, Runtime
    from ztw_rl.rl.agent import Agent

KIND = "bench"


@dataclass(frozen=True)
class BenchSettings(Ranged):
    """What is timed, and where that is written."""

    backends: tuple[str, ...] = ("eager", "onnx")
    """Any of eager, compiled (needs a C++ compiler), onnx and litert (need the extras of their
    names)."""
    batch_sizes: tuple[int, ...] = (1, 256)
    """Observations or images per call."""
    threads: tuple[int, ...] = (1,)
    """Threads per call."""
    n_rounds: Count = 300
    """Counted calls of each case at batch size 1; a tenth for larger batches."""
    output: Path | None = None
    """Folder for the results; by default a new one in runs/bench."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.backends:
            names = ", ".join(get_args(BackendName))
            raise UserError(f"backends must name at least one of {names}")
        for name in ("batch_sizes", "threads"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise UserError(f"{name} must be numbers of at least 1")


@dataclass(frozen=True)
class BenchRun:
    """Resolved settings, saved beside the results."""

    model: str
    """Folder of the agent or the classifier."""
    threshold: float | tuple[float, ...] | None
    """Of all ICs, or of each; None where one exit answers everything."""
    backends: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    threads: tuple[int, ...]
    n_rounds: int
    seed: int | None = None
    """Of the games that supply frames."""
    forced_exit: int | None = None
    """The exit that answers everything."""
    rule: Rule = "confidence"
    """What the threshold is compared with."""


def measure(
    settings: BenchSettings,
    deployable: Deployable,
    proposal: Proposal,
    inputs: Callable[[Runtime], Tensor],
) -> list[list[Latency]]:
    """Time a model.

    Args:
        settings: What is timed.
        deployable: The agent or the classifier.
        proposal: The thresholds of the mix.
        inputs: From the model at those thresholds to (N, …) real inputs.

    Returns:
        One group of cases per backend, number of threads and batch size.

    Raises:
        UserError: A backend is unknown, or what it needs is missing.
    """
    from ztw_rl.core.backends.named import check_backend, make_backend
    from ztw_rl.core.bench import bench
    from ztw_rl.core.runtime import Runtime

    for name in settings.backends:
        check_backend(name)
    deployable = deployable.at(proposal.point)
    model, x, relative_macs = deployable.model, deployable.example(), deployable.relative_macs()
    groups = []
    real: Tensor | None = None
    for name in settings.backends:
        for n_threads in settings.threads:
            backend = make_backend(name, model, x, n_threads)
            runtime = Runtime(backend, x, proposal.each(model.n_exits - 1), model.rule)
            if real is None:
                real = inputs(runtime)
            groups += [
                bench(
                    backend,
                    real,
                    runtime.bounds,
                    relative_macs,
                    batch_size=batch_size,
                    n_threads=n_threads,
                    n_rounds=settings.n_rounds
                    if batch_size == 1
                    else max(1, settings.n_rounds // 10),
                )
                for batch_size in settings.batch_sizes
            ]
    return groups


def _settled(
    settings: BenchSettings,
    backends: tuple[str, ...],
    model: Path,
    proposal: Proposal,
    seed: int | None,
) -> BenchRun:
    from ztw_rl.core.choice import Forced, Threshold

    point = proposal.point
    return BenchRun(
        str(model),
        point.value if isinstance(point, Threshold) else None,
        backends,
        settings.batch_sizes,
        settings.threads,
        settings.n_rounds,
        seed,
        point.exit if isinstance(point, Forced) else None,
        point.rule,
    )


def report(
    settings: BenchSettings,
    groups: Sequence[Sequence[Latency]],
    name: str,
    proposal: Proposal,
    model: Path,
    seed: int | None = None,
) -> None:
    """Write bench.csv, its settings in bench.json, and bench.png, and print the same.

    Args:
        settings: What was timed.
        groups: From ``measure``.
        name: Game, or network and data set; also the run folder's.
        proposal: The thresholds of the mix.
        model: Folder of what was timed.
        seed: Of the games that supplied frames.
    """
    import pandas as pd

    from ztw_rl.core.bench import break_even
    from ztw_rl.core.files import save_json, write_atomically
    from ztw_rl.plots import plot_bench

    run = _settled(settings, settings.backends, model, proposal, seed)
    output = settings.output or runs.create(settings.runs_dir, KIND, name, run)
    save_json(output / "bench.json", asdict(run))
    frame = pd.DataFrame([asdict(row) for rows in groups for row in rows])
    write_atomically(output / "bench.csv", lambda p: frame.to_csv(p, index=False))
    plot_bench(frame, f"{name}: time per call at {proposal}", output / "bench.png")
    for rows in groups:
        _print(rows, break_even(rows))
    for line in proposal.reasons:
        print(line)
    print(f"results: {output}/bench.csv; picture: {output}/bench.png")


def _print(rows: Sequence[Latency], even: float) -> None:
    from rich.table import Table

    first = rows[0]
    table = Table(
        title=f"{first.backend}, batch {first.batch_size}, threads {first.threads}",
        caption=f"pays off once {even:.0%} of the samples leave at exit 0",
    )
    for head in ("case", "p50 µs", "p90 µs", "p99 µs", "time", "MACs"):
        table.add_column(head, justify="left" if head == "case" else "right")
    for row in rows:
        latencies = (f"{us:,.0f}" for us in (row.p50_us, row.p90_us, row.p99_us))
        table.add_row(row.case, *latencies, f"{row.relative_time:.3f}", f"{row.relative_macs:.3f}")
    plain_console().print(table)


def compare(
    settings: Bench,
    agent: Agent,
    proposal: Proposal,
    inputs: Callable[[Runtime], Tensor],
    folder: Path,
) -> None:
    """Time an agent on all engines, write engines.csv, and print the same."""
    import pandas as pd

    from ztw_rl.core.backends.engines import installed
    from ztw_rl.core.bench import bench_engines
    from ztw_rl.core.files import save_json, write_atomically
    from ztw_rl.core.runtime import Runtime

    own = agent.at(proposal.point)
    model, x = own.model, own.example()
    named: dict[str, Backend] = {}
    for name, found in installed(model, x):
        if isinstance(found, UserError):
            print(f"without {name}: {found}")
        else:
            named[name] = found
    backends = list(named.values())
    runtime = Runtime(backends[0], x, proposal.each(model.n_exits - 1), model.rule)
    rows = bench_engines(backends, inputs(runtime), own.relative_macs(), n_rounds=settings.n_rounds)
    game = agent.config.environment.name
    single = replace(settings, engines=False, batch_sizes=(1,), threads=(1,))
    run = _settled(single, tuple(named), folder, proposal, settings.seed)
    output = settings.output or runs.create(settings.runs_dir, KIND, game, run)
    save_json(output / "bench.json", asdict(run))
    frame = pd.DataFrame([asdict(row) for row in rows])
    write_atomically(output / "engines.csv", lambda p: frame.to_csv(p, index=False))
    _print_engines(rows, game)
    print(f"agent: {folder}; results: {output}/engines.csv")


def _print_engines(rows: Sequence[Latency], game: str) -> None:
    from rich.table import Table

    cases = list(dict.fromkeys(row.case for row in rows))
    table = Table(
        title=f"{game}: one observation, one thread; µs at p50 (p99), share of the engine's full"
    )
    for head in ("engine", *cases):
        table.add_column(head, justify="left" if head == "engine" else "right")
    for name in dict.fromkeys(row.backend for row in rows):
        own = [row for row in rows if row.backend == name]
        cells = [f"{r.p50_us:,.0f} ({r.p99_us:,.0f}) {r.relative_time:.3f}" for r in own]
        table.add_row(name, *cells)
    plain_console().print(table)


@dataclass(frozen=True)
class Bench(BenchSettings):
    """Time an agent's decisions: the full network, each forced exit, none, and its own mix.

    Writes bench.csv and bench.png, or with --engines engines.csv. All cases of a backend are timed
    in turns, on frames that the agent meets when it plays.
    """

    agent: str | None = None
    """A shipped agent's name, an agent's folder or a distillation run; by default the newest
    distillation run, else the shipped agent."""
    engines: bool = False
    """Compare all engines that are installed here, one observation and one thread: all backends,
    AOTInductor and OpenVINO."""
    seed: Seed = 0
    """Of the games that supply the frames."""
    point: tyro.conf.OmitArgPrefixes[OperatingPoint] = field(default_factory=OperatingPoint)
    """The threshold of the mix."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("backends", "batch_sizes", "threads") if self.engines else ():
            if getattr(self, name) != getattr(BenchSettings, name):
                flag = name.replace("_", "-")
                raise UserError(f"--engines chooses what is timed; leave out --{flag}")


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl bench --help``.

    Returns:
        0.

    Raises:
        UserError: The command line or the agent has an error, or a package is missing.
    """
    args = read(Bench, arguments, "ztw-rl bench")
    runs.check_writable(args.output or args.runs_dir / KIND)
    folder = agents.find(args.agent, args.runs_dir)

    from ztw_rl.rl.agent import load_agent
    from ztw_rl.rl.frames import play_frames

    agent = load_agent(folder)
    if not agent.has_exits:
        raise UserError(f"{folder} is a student, without exits to time; ztw-rl eval times it whole")

    def frames(runtime: Runtime) -> Tensor:
        return play_frames(agent, runtime, max(args.batch_sizes), args.seed)

    choice = choose(args.point, agent, folder, args.runs_dir)
    if args.engines:
        compare(args, agent, choice, frames, folder)
        return 0
    groups = measure(args, agent, choice, frames)
    report(args, groups, agent.config.environment.name, choice, folder, args.seed)
    return 0
