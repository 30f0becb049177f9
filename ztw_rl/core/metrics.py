"""Figures of merit of exits and thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
