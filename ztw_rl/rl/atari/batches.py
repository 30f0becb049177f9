"""Batches of games for the pixels that a configuration asks for."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.emulators import AtariBatch, Emulators

T = TypeVar("T")


def in_background(make: Callable[[], T], niceness: int = 0) -> T:
    """Call ``make`` so that threads it starts wait for a free core instead of taking another's.

    A thread that wakes emulators goes on at once, and its own work and theirs overlap; on a busy
    machine with few cores it would otherwise be suspended until they have finished. That pays
    where the waker has work of its own meanwhile and PyTorch leaves cores free; a thread of
    PyTorch that spins between two operations would keep such emulators waiting. Only Linux
    knows such threads (``SCHED_BATCH``); elsewhere, where the process runs under a policy of the
    user's own, and where it may not choose one (a container's seccomp profile), nothing changes.

    Args:
        make: What starts the threads; it runs in a thread of its own, from which they inherit.
        niceness: How much less of a contested core they get, in steps of a fifth; Linux only.

    Returns:
        What ``make`` returns.
    """
    with ThreadPoolExecutor(1, initializer=_step_back, initargs=(niceness,)) as thread:
        return thread.submit(make).result()


def _step_back(niceness: int) -> None:
    """Put the calling thread, and those that it will start, behind the others if it may."""
    if not hasattr(os, "SCHED_BATCH"):
        # Niceness would be the whole process's.
        return
    with suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + niceness)


NICENESS = 4
"""Of emulators that take turns: enough for the network's thread to keep a core to itself."""


def make_emulators(config: AtariConfig, n_envs: int, n_threads: int = 0) -> AtariBatch:
    """A batch of games that renders ``config.pixels``.

    Args:
        config: Preprocessing.
        n_envs: Number of games N.
        n_threads: Emulation threads; 0 takes one per core. ``sb3`` pixels always take one.

    Raises:
        UserError: ALE has no such game.
    """
    if config.pixels == "ale":
        return Emulators(config, n_envs, n_threads)
    # Only the wrapper chain needs OpenCV.
    from ztw_rl.rl.atari.env import WrappedEmulators

    return WrappedEmulators(config, n_envs)


def make_batches(config: AtariConfig, n_envs: int) -> list[AtariBatch]:
    """Games in batches that take turns: while one emulates, a network decides for another.

    Two halves, or all games in one where they cannot emulate in the background.

    Args:
        config: Preprocessing.
        n_envs: Number of games, over all batches.

    Raises:
        UserError: ALE has no such game.
    """
    sizes = [n_envs // 2, n_envs - n_envs // 2] if config.pixels == "ale" else [n_envs]
    return in_background(lambda: [make_emulators(config, size) for size in sizes if size], NICENESS)
