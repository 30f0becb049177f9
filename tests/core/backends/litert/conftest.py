from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ztw_rl.core.backends.litert.graph import Graph
from ztw_rl.core.backends.litert.lowering import answer, lowered
from ztw_rl.core.backends.litert.packing import Part, needed, packed
from ztw_rl.core.backends.litert.values import input_like
from ztw_rl.interpreters import Interpreters

Steps = list[tuple[str, tuple[int, ...]]]
Same = Callable[..., Steps]


class Calls(nn.Module):
    """A function as a module, with what it multiplies by."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.fixture
def same() -> Same:
    """``same(function, x)``: LiteRT computes it as PyTorch does; gives operators and shapes."""

    def check(function: Callable[[Tensor], Tensor], x: Tensor, atol: float = 1e-5) -> Steps:
        graph, module = Graph(), Calls(function).eval().requires_grad_(False)
        (found,) = lowered(graph, module, [x[:1]], [input_like(graph, "x", x[:1])])
        outputs = {"y": answer(graph, found).node}
        session = Interpreters(packed([Part(graph, outputs)]), 1, "the model")
        for batch in (x, x[:1], x[:2]):
            (y,) = session.run(("y",), {"x": batch.numpy()})
            torch.testing.assert_close(
                torch.from_numpy(y), module(batch).detach().float(), atol=atol, rtol=1e-5
            )
        return [(step.code, step.output.shape) for step in needed(graph, outputs.values())]

    return check
