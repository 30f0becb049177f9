"""Latency of an early-exit model, case by case."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ztw_rl.core.cost import relative_cost
from ztw_rl.core.runtime import Backend

CALLS_PER_TURN = 5


@dataclass(frozen=True)
class ExitTimes:
    """Median latency of one decision, one observation, one thread."""

    backend: str
    """What ran the network."""
    seconds: tuple[float, ...]
    """Per exit: when the sample is made to leave there."""
    backbone_seconds: float
    """Of the backbone alone, without any IC."""

    @property
    def relative(self) -> tuple[float, ...]:
        """Per exit: its time over the backbone's."""
        return tuple(s / self.backbone_seconds for s in self.seconds)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let torch use ``n`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interleaved_seconds(
    functions: Sequence[Callable[[], object]], n_rounds: int, n_warmup: int
) -> list[list[float]]:
    """Seconds of each function, called in short turns so that drift hits all alike.

    The first call of a turn is not counted: it finds the caches full of another function's data,
    which is not how a decision is met that follows others of its kind.

    Args:
        functions: What is timed.
        n_rounds: Counted calls of each.
        n_warmup: Calls of each that are not counted, first.

    Returns:
        ``n_rounds`` for each function.
    """
    for function in functions:
        for _ in range(n_warmup):
            function()
    seconds: list[list[float]] = [[] for _ in functions]
    while len(seconds[-1]) < n_rounds:
        for function, times in zip(functions, seconds, strict=True):
            function()
            for _ in range(min(CALLS_PER_TURN, n_rounds - len(times))):
                begin = time.perf_counter()
                function()
                times.append(time.perf_counter() - begin)
    return seconds


def forced_bounds(m: int, n_exits: int) -> tuple[float, ...]:
    """Bounds of the E−1 ICs that make every sample leave at exit m, whatever it says."""
    return tuple(-math.inf if e == m else math.inf for e in range(n_exits - 1))


def time_exits(
    backend: Backend,
    x: Tensor,
    full: Backend | None = None,
    *,
    n_rounds: int = 300,
    n_warmup: int = 30,
) -> ExitTimes:
    """Time each exit and the backbone, interleaved, on one thread.

    Args:
        backend: Runs a model on the CPU.
        x: (1, …), one input.
        full: Runs the network whose backbone is the measure; by default the model itself.
        n_rounds: Counted decisions of each kind.
        n_warmup: Decisions of each kind that are not counted, first.
    """
    forced = [forced_bounds(m, backend.n_exits) for m in range(backend.n_exits)]
    runs: list[Callable[[], object]] = [
        lambda: (full or backend).backbone(x),
        *(lambda bounds=bounds: backend.predict(x, bounds) for bounds in forced),
    ]
    with threads(1):
        seconds = interleaved_seconds(runs, n_rounds, n_warmup)
    whole, *exits = (statistics.median(times) for times in seconds)
    return ExitTimes(backend.name, tuple(exits), whole)


@dataclass(frozen=True)
class Latency:
    """One line of ``bench.csv``."""

    backend: str
    batch_size: int
    threads: int
    case: str
    """``full`` (the backbone alone), ``exit_0`` … (forced), ``no_exit`` (every IC is asked and
    none answers), ``mix`` (the bounds decide)."""
    p50_us: float
    """Per call, not per sample; so are the other percentiles."""
    p90_us: float
    p99_us: float
    relative_time: float
    """Median over ``full``'s. One sample leaves at one exit, so for the mix of single samples it
    is the mean over exits, each as often as it is taken, of the exit's median."""
    relative_macs: float
    """Operations over ``full``'s: what early exit promises."""


def bench(
    backend: Backend,
    inputs: Tensor,
    bounds: Sequence[float],
    relative_macs: Sequence[float],
    *,
    batch_size: int,
    n_threads: int,
    n_rounds: int,
) -> list[Latency]:
    """Time every case, interleaved.

    Args:
        backend: Runs a model on the CPU with ``n_threads``.
        inputs: (N, …), real ones, because they decide the mix of exits.
        bounds: E−1, of the case ``mix``; see ``decision.bound``.
        relative_macs: (E,) see ``cost.ExitCosts``.
        batch_size: Samples per call.
        n_threads: Threads of PyTorch.
        n_rounds: Counted calls of each case.
    """
    n_exits = backend.n_exits
    repeats = -(-batch_size // len(inputs))
    pool = torch.cat([inputs] * repeats)
    # Batches of neighbours would differ in their mix, and the median be that of one of them.
    pool = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))]
    starts = range(0, len(pool) - batch_size + 1, batch_size)
    batches = [pool[start : start + batch_size] for start in starts]
    cases: dict[str, tuple[Callable[[Tensor], object], float]] = {"full": (backend.backbone, 1.0)}
    for m in range(n_exits - 1):
        cases[f"exit_{m}"] = (_predictor(backend, forced_bounds(m, n_exits)), relative_macs[m])
    never = forced_bounds(n_exits - 1, n_exits)
    cases["no_exit"] = (_predictor(backend, never), relative_macs[-1])
    with threads(n_threads):
        exits = np.concatenate([backend.predict(batch, bounds).exits for batch in batches])
        shares = np.bincount(exits, minlength=n_exits) / len(exits)
        mixed = relative_cost(shares.tolist(), relative_macs)
        cases["mix"] = (_predictor(backend, bounds), mixed)
        calls = [_cycle(function, batches) for function, _ in cases.values()]
        seconds = interleaved_seconds(calls, n_rounds, n_warmup=3)
    percentiles = [np.percentile(times, (50, 90, 99)) * 1e6 for times in seconds]
    relative = [float(p50 / percentiles[0][0]) for p50, _, _ in percentiles]
    if batch_size == 1:
        relative[-1] = relative_cost(shares.tolist(), relative[1:-1])
    return [
        Latency(backend.name, batch_size, n_threads, case, p50, p90, p99, time, macs)
        for (case, (_, macs)), (p50, p90, p99), time in zip(
            cases.items(), percentiles, relative, strict=True
        )
    ]


def bench_engines(
    backends: Sequence[Backend],
    inputs: Tensor,
    relative_macs: Sequence[float],
    *,
    n_rounds: int,
) -> list[Latency]:
    """Time the same model on several engines, all cases of all of them in turns.

    Args:
        backends: Of one thread each.
        inputs: (N, …), real ones.
        relative_macs: (E,) see ``cost.ExitCosts``.
        n_rounds: Counted calls of each case.

    Returns:
        Of one input a call: ``full``, ``exit_0`` … and ``no_exit`` of each.
    """
    n_exits = len(relative_macs)
    names = [*(f"exit_{m}" for m in range(n_exits - 1)), "no_exit"]
    singles = [inputs[i : i + 1] for i in range(len(inputs))]
    calls: list[Callable[[], object]] = []
    for backend in backends:
        calls.append(_cycle(backend.backbone, singles))
        for m in range(n_exits):
            calls.append(_cycle(_predictor(backend, forced_bounds(m, n_exits)), singles))
    with threads(1):
        seconds = interleaved_seconds(calls, n_rounds, n_warmup=30)
    rows = []
    for number, backend in enumerate(backends):
        own = seconds[number * (n_exits + 1) : (number + 1) * (n_exits + 1)]
        whole = statistics.median(own[0])
        for case, macs, times in zip(("full", *names), (1.0, *relative_macs), own, strict=True):
            p50, p90, p99 = np.percentile(times, (50, 90, 99)) * 1e6
            relative = statistics.median(times) / whole
            rows.append(Latency(backend.name, 1, 1, case, p50, p90, p99, relative, macs))
    return rows


def _predictor(backend: Backend, bounds: Sequence[float]) -> Callable[[Tensor], object]:
    return lambda x: backend.predict(x, bounds)


def _cycle(function: Callable[[Tensor], object], batches: Sequence[Tensor]) -> Callable[[], object]:
    """``function`` of one batch after another, over and over."""
    following = itertools.cycle(batches)
    return lambda: function(next(following))


def break_even(rows: Sequence[Latency]) -> float:
    """Share of samples that must leave at exit 0, all others at none, to be no slower than full.

    Args:
        rows: All cases of one backend, batch size and number of threads.

    Returns:
        At least 0; above 1 if early exit cannot pay, NaN without ICs.
    """
    times = {row.case: row.relative_time for row in rows}
    if "exit_0" not in times:
        return math.nan
    saved = times["no_exit"] - times["exit_0"]
    return max(0.0, (times["no_exit"] - 1) / saved) if saved > 0 else math.inf
