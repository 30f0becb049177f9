"""Functions of tensors that a CUDA device replays as one graph, without Python or launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

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
