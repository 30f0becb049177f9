"""How long leaving at each exit takes, measured."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ztw_rl.core.backends.backend import Backend

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


def forced_thresholds(m: int, n_exits: int) -> tuple[float, ...]:
    """Thresholds of the E−1 ICs that make every sample leave at exit m, whatever it says."""
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
    forced = [forced_thresholds(m, backend.n_exits) for m in range(backend.n_exits)]
    runs: list[Callable[[], object]] = [
        lambda: (full or backend).backbone(x),
        *(lambda thresholds=thresholds: backend.predict(x, thresholds) for thresholds in forced),
    ]
    with threads(1):
        seconds = interleaved_seconds(runs, n_rounds, n_warmup)
    whole, *exits = (statistics.median(times) for times in seconds)
    return ExitTimes(backend.name, tuple(exits), whole)
