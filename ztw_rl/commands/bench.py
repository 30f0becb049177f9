"""``ztw-rl bench``: how long an agent's decisions take, by backend, batch size and threads."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from ztw_rl import agents, runs
from ztw_rl.commands._operating_point import OperatingPoint, choose
from ztw_rl.core.settings import require_seed
from ztw_rl.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ztw_rl.atari.agent import Agent
    from ztw_rl.core.bench import Latency

KIND = "bench"
EVERY = 8
"""Decisions from one kept observation to the next, for the mix to be that of whole games."""


@dataclass(frozen=True)
class Bench:
    """Time an agent's decisions: the full network, each forced exit, none, and its own mix.

    Writes bench.csv and bench.png. All cases of a backend are timed in turns, on frames that the
    agent meets when it plays.
    """

    agent: str | None = None
    """A shipped agent's name, an agent's folder or a distillation run; by default the newest
    distillation run, else the shipped agent."""
    backends: tuple[str, ...] = ("eager", "onnx")
    """Any of eager, compiled (needs a C++ compiler), onnx (needs the extra onnx)."""
    batch_sizes: tuple[int, ...] = (1, 256)
    """Observations per call."""
    threads: tuple[int, ...] = (1,)
    """Threads per call."""
    n_rounds: int = 300
    """Counted calls of each case at batch size 1; a tenth for larger batches."""
    output: Path | None = None
    """Folder for the results; by default a new one in runs/bench."""
    seed: int = 0
    """Of the games that supply the frames."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    point: tyro.conf.OmitArgPrefixes[OperatingPoint] = field(default_factory=OperatingPoint)
    """The threshold of the mix."""

    def __post_init__(self) -> None:
        require_seed(self)
        for name in ("batch_sizes", "threads"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise UserError(f"{name} must be numbers of at least 1")
        if self.n_rounds < 1:
            raise UserError(f"n_rounds must be at least 1, not {self.n_rounds}")


@dataclass(frozen=True)
class BenchRun:
    """Resolved settings, saved beside the results."""

    agent: str
    threshold: float
    backends: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    threads: tuple[int, ...]
    n_rounds: int
    seed: int


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl bench --help``.

    Returns:
        0.

    Raises:
        UserError: The command line or the agent has an error, or a package is missing.
    """
    args = tyro.cli(Bench, args=arguments, prog="ztw-rl bench")
    runs.check_writable(args.output or args.runs_dir / KIND)
    folder = agents.find(args.agent, args.runs_dir)

    import pandas as pd

    from ztw_rl.atari.agent import load_agent
    from ztw_rl.atari.games import canonical
    from ztw_rl.core.bench import break_even
    from ztw_rl.core.checkpoint import write_atomically
    from ztw_rl.plots import plot_bench

    agent = load_agent(folder)
    if agent.is_student:
        raise UserError(f"{folder} is a student, without exits to time; ztw-rl eval times it whole")
    game = canonical(agent.config.atari.game)
    choice = choose(args.point, agent, folder, args.runs_dir)
    threshold = choice.threshold
    groups = _measure(args, agent, threshold)
    run = BenchRun(
        str(folder),
        threshold,
        args.backends,
        args.batch_sizes,
        args.threads,
        args.n_rounds,
        args.seed,
    )
    output = args.output or runs.create(args.runs_dir, KIND, game, run)
    frame = pd.DataFrame([asdict(row) for rows in groups for row in rows])
    write_atomically(output / "bench.csv", lambda p: frame.to_csv(p, index=False))
    plot_bench(frame, f"{game}: time per call at threshold {threshold:g}", output / "bench.png")
    for rows in groups:
        _print(rows, break_even(rows))
    for line in choice.reasons:
        print(line)
    print(f"results: {output}/bench.csv; picture: {output}/bench.png")
    return 0


def _measure(args: Bench, agent: Agent, threshold: float) -> list[list[Latency]]:
    """One group of cases per backend, number of threads and batch size."""
    from ztw_rl.core.bench import bench
    from ztw_rl.core.cost import exit_costs
    from ztw_rl.core.runtime import Runtime, make_backend

    x = agent.example()
    relative_macs = exit_costs(agent.model, x).relative_macs
    groups = []
    frames: Tensor | None = None
    for name in args.backends:
        for n_threads in args.threads:
            backend = make_backend(name, agent.model, x, n_threads)
            runtime = Runtime(backend, x, threshold)
            if frames is None:
                frames = play_frames(agent, runtime, max(args.batch_sizes), args.seed)
            groups += [
                bench(
                    backend,
                    frames,
                    runtime.thresholds,
                    relative_macs,
                    batch_size=batch_size,
                    n_threads=n_threads,
                    n_rounds=args.n_rounds if batch_size == 1 else max(1, args.n_rounds // 10),
                )
                for batch_size in args.batch_sizes
            ]
    return groups


def play_frames(agent: Agent, runtime: Any, n_least: int, seed: int) -> Tensor:
    """(N, frame_stack, H, W) observations of games that the agent plays greedily, exits open."""
    import numpy as np
    import torch

    from ztw_rl.atari.early_exit_policy import EarlyExitPolicy
    from ztw_rl.atari.vec_env import AtariVecEnv

    policy = EarlyExitPolicy(runtime, seed)
    env = AtariVecEnv(agent.config.atari, 8, seed)
    kept = []
    try:
        observations = np.asarray(env.reset())
        for step in range(EVERY * max(64, -(-n_least // 8))):
            if step % EVERY == 0:
                kept.append(torch.from_numpy(observations.copy()))
            actions, _ = policy.predict(observations, deterministic=True)
            observations = np.asarray(env.step(actions)[0])
    finally:
        env.close()
    return torch.cat(kept)


def _print(rows: list[Latency], even: float) -> None:
    from rich.console import Console
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
    Console().print(table)
