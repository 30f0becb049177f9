"""Choice of the device, threads for it, and CUDA graphs."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

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


TensorFunction = Callable[..., Tensor]
"""Takes tensors, gives a tensor; may change others on the way, such as a network's parameters."""

WARMUP_CALLS = 3
"""Plain calls before the recording: libraries choose their kernels, optimisers make their state."""


def replayable(function: TensorFunction, device: torch.device) -> TensorFunction:
    """``function`` itself on the CPU; on CUDA the same, replayed as a graph after a few calls.

    The function must do the same work at every call, on the device alone: what changes between
    calls arrives in its arguments or lies in tensors that are changed in place, and it reads
    nothing back. Random numbers go on from call to call as they do without a graph.

    Args:
        function: What to call.
        device: Where all of its tensors are.
    """
    return _GraphReplay(function, device) if device.type == "cuda" else function


class _GraphReplay:
    """Records a function once per shape of its arguments."""

    def __init__(self, function: TensorFunction, device: torch.device) -> None:
        self._function = function
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._plain_calls: Counter[object] = Counter()
        self._recordings: dict[object, _Recording] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        shape = tuple((x.shape, x.stride(), x.dtype) for x in inputs)
        recording = self._recordings.get(shape)
        if recording is None and self._plain_calls[shape] < WARMUP_CALLS:
            self._plain_calls[shape] += 1
            return self._call_plainly(inputs)
        if recording is None:
            recording = self._recordings[shape] = _Recording(self._function, inputs, self._stream)
        return recording(inputs)

    def _call_plainly(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Call the function on the stream that will record it, in order with the present one."""
        present = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            output = self._function(*inputs)
        present.wait_stream(self._stream)
        return output


class _Recording:
    """A graph with its own memory for arguments and result; recording does no work yet."""

    def __init__(
        self, function: TensorFunction, inputs: tuple[Tensor, ...], stream: torch.cuda.Stream
    ) -> None:
        self._inputs = [x.clone() for x in inputs]
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the device meanwhile.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._output = function(*self._inputs)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output.clone()
