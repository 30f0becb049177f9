"""Choice of the device."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ztw_rl.errors import UserError


def resolve_device(name: str) -> torch.device:
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        UserError: The name is unknown or this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    # PyTorch knows more, such as meta, on which nothing here runs.
    known = re.fullmatch(r"cpu|cuda(?::(\d+))?", name, re.ASCII)
    if known is None:
        raise UserError(f"unknown device '{name}'; use auto, cpu, cuda or cuda:0")
    if name != "cpu" and (
        not torch.cuda.is_available() or int(known[1] or 0) >= torch.cuda.device_count()
    ):
        raise UserError(f"device '{name}' is not available here; use the device cpu")
    return torch.device(name)


def exact_device(name: str) -> torch.device:
    """``resolve_device``, and on CUDA float32 that is float32, for the whole process.

    TF32, PyTorch's default for convolutions there, keeps 10 bits of 23; an agent's confidences
    and returns should not depend on where they were computed. Who wants it all the same asks for
    it with ``tf32_convolutions``.

    Raises:
        UserError: The name is unknown or this machine has no such device.
    """
    device = resolve_device(name)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return device


@contextmanager
def tf32_convolutions(allowed: bool, device: torch.device) -> Iterator[None]:
    """Whether convolutions multiply in TF32 while the context lasts; of interest on CUDA alone.

    A CUDA graph keeps the arithmetic that it was recorded in.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def n_network_threads() -> int:
    """Threads of a network on small batches beside simulators.

    Half of the cores, for the other half is the simulators', and at most four, for more wait for
    one another longer than they work. Never more than PyTorch has, so ``OMP_NUM_THREADS`` counts.
    """
    return max(1, min(4, n_cores() // 2, torch.get_num_threads()))


def n_cores() -> int:
    """Cores that this process may use: a scheduler's share rather than all of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
