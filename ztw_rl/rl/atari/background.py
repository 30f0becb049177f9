"""Emulation threads that step back behind whoever hands them work."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

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
