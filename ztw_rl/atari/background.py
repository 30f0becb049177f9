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
    knows such threads (``SCHED_BATCH``); elsewhere, where the process runs under a policy of the
    user's own, and where it may not choose one (a container's seccomp profile), nothing changes.
    """
    if not hasattr(os, "SCHED_BATCH") or not _changed(os.SCHED_OTHER, os.SCHED_BATCH):
        yield
        return
    try:
        yield
    finally:
        _changed(os.SCHED_BATCH, os.SCHED_OTHER)


def _changed(before: int, after: int) -> bool:
    """Put the calling thread, and those that it will start, under another policy if it may."""
    try:
        if os.sched_getscheduler(0) != before:
            return False
        os.sched_setscheduler(0, after, os.sched_param(0))
    except OSError:
        return False
    return True
