"""Emulation threads that do not interrupt whoever hands them work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def background_threads() -> Iterator[None]:
    """Threads started inside wait for a free core instead of pushing a running thread off its own.

    A thread that wakes emulators goes on at once, and its own work and theirs overlap; on a busy
    machine with few cores it would otherwise be suspended until they have finished. That pays
    where the waker has work of its own meanwhile and PyTorch leaves cores free; a thread of
    PyTorch that spins between two operations would keep such emulators waiting. Only Linux
    knows such threads (``SCHED_BATCH``); elsewhere, and where the process runs under a policy of
    the user's own, nothing changes.
    """
    if not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    # Of the calling thread alone; those that it starts inherit it.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
