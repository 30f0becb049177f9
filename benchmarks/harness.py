"""What every benchmark shares: interleaved timing, a table, and a last line of JSON.

Contenders take turns in short rounds, so that a change of the machine's speed meets all of them.
The ratio is the median over rounds, each of which compares neighbours in time.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from ztw_rl.core.device import n_cores

Rates = dict[str, list[float]]
"""Contender -> steps per second in each round."""


def interleave(contenders: Mapping[str, Callable[[], int]], rounds: int, warmup: int = 1) -> Rates:
    """Let every contender play in turn, ``rounds`` times.

    Args:
        contenders: Name -> a function that does some work and returns the steps it did. One to
            ten seconds a call keep the turns close together and the clock's error small.
        rounds: Turns that count.
        warmup: Turns before them that do not.
    """
    rates: Rates = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(warmup + rounds):
        # Who goes first changes, so that nobody always follows the same neighbour.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            steps = contenders[name]()
            rate = steps / (time.perf_counter() - began)
            if turn >= warmup:
                rates[name].append(rate)
    return rates


def ratio(rates: Rates, ours: str, opponent: str) -> float:
    """How many times faster ``ours`` is: the median over rounds."""
    return statistics.median(a / b for a, b in zip(rates[ours], rates[opponent], strict=True))


def busy_rate(contender: Callable[[], int]) -> float:
    """Steps per second that ``contender`` would do, were every core busy with it all the time.

    From the processor time of this process in one call: what better overlap could still bring, if
    no part of the work became cheaper. Idle threads of PyTorch that spin count as work, so give
    it a contender that runs PyTorch on as many threads as it needs.
    """
    began = time.process_time()
    steps = contender()
    return steps * n_cores() / (time.process_time() - began)


def peak_macs() -> float:
    """Multiply-accumulates per second in float32 that PyTorch reaches here at its best.

    The best of several large matrix products and wide convolutions, on all threads.
    """
    matrix = torch.rand(2048, 2048)
    image = torch.rand(8, 256, 56, 56).contiguous(memory_format=torch.channels_last)
    kernel = torch.rand(256, 256, 3, 3).contiguous(memory_format=torch.channels_last)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: matrix @ matrix,
        lambda: torch.conv2d(image, kernel, padding=1),
    )
    return max(_macs_per_second(attempt) for attempt in attempts for _ in range(8))


def _macs_per_second(function: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        function()
    began = time.perf_counter()
    function()
    return int(counter.get_total_flops()) / 2 / (time.perf_counter() - began)


def rate_at_peak(contender: Callable[[], int], emulation_rate: float, peak: float) -> float:
    """Steps per second, were there nothing but emulation and float32 products at peak speed.

    A bound for whoever does the same products: no layer is slower than a large matrix product,
    no core ever waits, and everything else is free.

    Args:
        contender: Does some work in this thread and returns the steps it did.
        emulation_rate: Steps per second of the emulators alone, on all cores.
        peak: ``peak_macs()``.
    """
    with FlopCounterMode(display=False) as counter:
        steps = contender()
    macs_per_step = int(counter.get_total_flops()) / 2 / steps
    return 1 / (1 / emulation_rate + macs_per_step / peak)


def fastest(rates: Rates, names: Sequence[str]) -> str:
    """The name with the highest median rate."""
    return max(names, key=lambda name: statistics.median(rates[name]))


def machine() -> str:
    """One line: processor, cores, threads of PyTorch, versions, load."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{model}, {n_cores()} cores, {torch.get_num_threads()} PyTorch threads, "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}{load}"
    )


def show(rates: Rates, opponent: str) -> None:
    """Print a table of the contenders, each beside ``opponent``."""
    table = Table()
    for heading in ("", "steps/s", "slowest round", "fastest round", f"times {opponent}"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, each in rates.items():
        figures = (statistics.median(each), min(each), max(each))
        table.add_row(name, *(f"{f:,.0f}" for f in figures), f"{ratio(rates, name, opponent):.2f}")
    # A fixed width, so that a pipe shows what a terminal does.
    Console(width=100).print(table)


def conclude(
    benchmark: str, reached: float, target: float, rates: Rates, machine_line: str, **extra: Any
) -> float:
    """Print the last line, a JSON object with ``ratio``.

    Args:
        benchmark: Name of the benchmark.
        reached: The ratio.
        target: The ratio to reach.
        rates: From ``interleave``.
        machine_line: ``machine()`` as it was before the benchmark loaded the processor.
        extra: More entries for the JSON object.

    Returns:
        The ratio.
    """
    result = {
        "benchmark": benchmark,
        "ratio": round(reached, 3),
        "target": target,
        "steps_per_second": {n: round(statistics.median(r), 1) for n, r in rates.items()},
        "rounds": len(next(iter(rates.values()))),
        "machine": machine_line,
        **extra,
    }
    print(json.dumps(result), flush=True)
    return reached


def report(
    benchmark: str,
    rates: Rates,
    *,
    ours: str,
    opponent: str,
    target: float,
    machine_line: str,
    **extra: Any,
) -> float:
    """Print the table of a benchmark that compares two contenders, and the last line.

    Args:
        benchmark: Name of the benchmark.
        rates: From ``interleave``.
        ours: The contender whose speed is claimed.
        opponent: The contender it is compared with.
        target: The ratio to reach.
        machine_line: ``machine()`` as it was before the benchmark loaded the processor.
        extra: More entries for the JSON object.

    Returns:
        The ratio.
    """
    print(f"{benchmark}: {machine_line}")
    show(rates, opponent)
    reached = ratio(rates, ours, opponent)
    who = {"ours": ours, "opponent": opponent}
    return conclude(benchmark, reached, target, rates, machine_line, **who, **extra)
