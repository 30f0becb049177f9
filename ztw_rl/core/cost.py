"""What leaving at each exit costs, in operations and parameters, and what hindsight would gain.

One multiply-accumulate (MAC) counts as one operation; torch's counter, which is used here,
counts two. Counted are convolutions and matrix products. Element-wise work (activations, pooling,
normalisation, the ensemble's few hundred products) is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ztw_rl.core.model import EarlyExitModel, ExitOutput


@dataclass(frozen=True)
class ExitCosts:
    """Operations and parameters of an early-exit model."""

    macs: tuple[int, ...]
    """Per exit: MACs of everything evaluated for a sample that leaves there."""
    backbone_macs: int
    """MACs of the backbone alone, without any IC."""
    parameters: tuple[int, ...]
    """Per exit: parameters of everything evaluated up to it."""
    backbone_parameters: int

    @property
    def relative_macs(self) -> tuple[float, ...]:
        """Per exit: MACs over the backbone's. The last exceeds 1 by the ICs' own work."""
        return tuple(macs / self.backbone_macs for macs in self.macs)


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count what runs meanwhile, without gradients.

    The counter does not know all fused kernels of attention, so attention runs in its parts.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def count_macs(function: Callable[[], object]) -> int:
    """MACs of one call."""
    with counted() as counter:
        function()
    return int(counter.get_total_flops()) // 2


def n_parameters(module: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def exit_costs(model: EarlyExitModel, x: Tensor) -> ExitCosts:
    """Count what each exit costs.

    Args:
        model: The model, in eval mode.
        x: (1, …), any input of the right shape; its values don't matter.

    Returns:
        Costs per sample.
    """
    backbone_macs = count_macs(lambda: model.backbone(x))
    macs, parameters = [0], [0]
    exits = model.exits(x)
    for m, segment in enumerate(model.answering()):
        found: list[ExitOutput] = []
        own = count_macs(partial(_take, exits, found))
        added = n_parameters(model.segments[m])
        if segment.signal is not None:
            own += count_macs(partial(segment.signal, found[0].pooled, found[0].logits))
            added += n_parameters(segment.signal)
        macs.append(macs[-1] + own)
        if model.ensemble is not None and model.is_ensembled(m):
            added += m + 1 + model.ensemble.log_biases.shape[1]
        parameters.append(parameters[-1] + added)
    return ExitCosts(
        macs=tuple(macs[1:]),
        backbone_macs=backbone_macs,
        parameters=tuple(parameters[1:]),
        backbone_parameters=n_parameters(model.blocks) + n_parameters(model.head),
    )


def _take(exits: Iterator[ExitOutput], found: list[ExitOutput]) -> None:
    found.append(next(exits))


def relative_cost(shares: Sequence[float], costs: Sequence[float]) -> float:
    """Mean cost of a decision: Σ share_e · cost_e."""
    return sum(share * cost for share, cost in zip(shares, costs, strict=True))


def hindsight_improvability(predictions: Tensor, labels: Tensor) -> Tensor:
    """Of the samples an exit gets wrong, the share that some earlier exit got right.

    Source: Wołczyk et al., "Zero Time Waste" (2021), section 3.

    Args:
        predictions: (N, E) labels, exit by exit.
        labels: (N,).

    Returns:
        (E,); NaN where an exit gets nothing wrong, 0 for the first.
    """
    right = predictions == labels.unsqueeze(1)
    wrong = ~right
    earlier = right.cumsum(dim=1) - right.long() > 0
    return (wrong & earlier).sum(dim=0) / wrong.sum(dim=0).to(torch.float64)
