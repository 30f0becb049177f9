"""What a network's exits read, and what its own head says, on LiteRT: for training exits on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ztw_rl.core.backends.litert.graph import Graph, Node
from ztw_rl.core.backends.litert.lowering import answer, lowered
from ztw_rl.core.backends.litert.packing import Part, packed
from ztw_rl.core.backends.litert.values import Maps, Plain, Value, as_floats, input_like, lying
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.interpreters import Interpreters, require_package


class _Reads(nn.Module):
    """What the ICs read."""

    def __init__(self, model: EarlyExitModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """E−1."""
        return tuple(islice(self.model.reads(x), self.model.n_exits - 1))


class _Rest(nn.Module):
    """The head's logits, from what the last IC reads."""

    def __init__(self, model: EarlyExitModel) -> None:
        super().__init__()
        self.segment = model.segments[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C)."""
        return self.segment.classify(self.segment.read(x), None)[1]


class FrozenNetwork:
    """A network without its ICs, which may change meanwhile.

    Args:
        model: In eval mode, on the CPU, with one IC or more.
        x: (1, …), any input of the right shape and type.
        n_threads: For the work inside a layer.

    Raises:
        UserError: A package is missing, or LiteRT cannot express a layer.
    """

    @torch.no_grad()
    def __init__(self, model: EarlyExitModel, x: Tensor, n_threads: int) -> None:
        require_package()
        self._segments = model.segments
        graph = Graph()
        reads = lowered(graph, _Reads(model), [x], [input_like(graph, "x", x)])
        # Bytes that are only scaled are left to PyTorch.
        self._left = [value.is_bytes or graph.is_input(value.node) for value in reads]
        self._maps = [isinstance(value.layout, Maps) for value in reads]
        outputs = {
            f"reads_{m}": _as_given(graph, value)
            for m, value in enumerate(reads)
            if not self._left[m]
        }
        self._names = tuple(outputs)
        self._trunk = _opened(graph, outputs, n_threads) if outputs else None
        graph = Graph()
        last = _Reads(model)(x)[-1]
        layout = Maps() if self._maps[-1] else Plain()
        dtype = str(last.numpy().dtype)
        node = graph.input("x", lying(layout, tuple(last.shape)), dtype)
        (logits,) = lowered(graph, _Rest(model), [last], [Value(node, tuple(last.shape), layout)])
        self._rest = _opened(graph, {"logits": answer(graph, logits).node}, n_threads)

    def reads(self, x: Tensor) -> list[Tensor]:
        """What each IC reads, E−1 tensors, of (B, …) inputs."""
        found: Iterator[Any] = iter(())
        if self._trunk is not None:
            found = iter(self._trunk.run(self._names, {"x": x.numpy()}))
        reads: list[Tensor] = []
        for m, left in enumerate(self._left):
            if left:
                reads.append(self._segments[m].read(reads[-1] if reads else x))
                continue
            read = torch.from_numpy(next(found))
            reads.append(read.permute(0, 3, 1, 2) if self._maps[m] else read)
        return reads

    def logits(self, read: Tensor) -> Tensor:
        """(B, C) of the network's own head, from what the last IC reads."""
        if self._maps[-1]:
            read = read.permute(0, 2, 3, 1)
        (found,) = self._rest.run(("logits",), {"x": read.contiguous().numpy()})
        return torch.from_numpy(found)


def _as_given(graph: Graph, value: Value) -> Node:
    """Maps as they lie, all else in PyTorch's order."""
    if isinstance(value.layout, Maps):
        return as_floats(graph, value).node
    return answer(graph, value).node


def _opened(graph: Graph, outputs: Mapping[str, Node], n_threads: int) -> Interpreters:
    return Interpreters(packed([Part(graph, outputs)]), n_threads, "the network")
