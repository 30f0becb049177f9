"""Many thresholds from one pass: accuracy and cost of each, without running the network again.

An exit rule asks whether a score of the exit exceeds a threshold: the confidence, or the number
of exits in a row that agree. A sample leaves at the first exit whose score does, so exit m is
where it leaves for exactly the thresholds from the highest score before m up to its score at m.
Each (sample, exit) pair is thus one interval of thresholds, and all thresholds are answered by
adding up where intervals begin and end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ztw_rl.errors import UserError

N_THRESHOLDS = 1000


@dataclass(frozen=True)
class Curve:
    """What each of T thresholds does to the same samples."""

    thresholds: Tensor
    """(T,), rising."""
    shares: Tensor
    """(T, E) float64: of the samples, the share that leaves at each exit."""
    accuracy: Tensor
    """(T,) float64, 0 … 1."""
    relative_macs: Tensor
    """(T,) float64: mean cost of a sample."""


def confidences(log_probs: Tensor) -> Tensor:
    """Scores of the confidence rule.

    Args:
        log_probs: (N, E, C), what each exit answers.

    Returns:
        (N, E−1), the ICs' highest probabilities; −inf for a broken answer, which never leaves.
    """
    scores = log_probs[:, :-1].amax(dim=-1).exp()
    return torch.where(scores.isnan(), -torch.inf, scores)


def agreements(log_probs: Tensor) -> Tensor:
    """Scores of the patience rule (PBEE): how many exits in a row gave the newest answer.

    Patience t leaves at a score of t or more, which is a threshold of t − ½.

    Args:
        log_probs: (N, E, C), what each exit answers.

    Returns:
        (N, E−1), 1 or more; −inf for a broken answer, which never leaves.
    """
    labels = log_probs[:, :-1].argmax(dim=-1)
    broken = log_probs[:, :-1].isnan().any(dim=-1)
    streaks = torch.ones_like(labels)
    for m in range(1, labels.shape[1]):
        agrees = labels[:, m] == labels[:, m - 1]
        streaks[:, m] = torch.where(agrees, streaks[:, m - 1] + 1, 1)
    return torch.where(broken, -torch.inf, streaks.float())


def even_thresholds(scores: Tensor, n: int = N_THRESHOLDS) -> Tensor:
    """Thresholds evenly spaced from the lowest confidence to 1.

    Args:
        scores: (N, E−1), from ``confidences``.
        n: How many.

    Returns:
        (n,).

    Raises:
        UserError: No score is a number.
    """
    finite = scores[scores.isfinite()]
    if not len(finite):
        raise UserError("no confidence is a number: the ICs' weights are broken; train them again")
    lowest = finite.min().item()
    return torch.linspace(lowest, 1.0, n, dtype=scores.dtype, device=scores.device)


def quantile_thresholds(scores: Tensor, n: int = N_THRESHOLDS) -> Tensor:
    """Thresholds that lie evenly among scores of any range, one below all of them.

    Args:
        scores: (N, E−1).
        n: How many.

    Returns:
        (n,).

    Raises:
        UserError: No score is a number.
    """
    finite = scores[scores.isfinite()].sort().values
    if not len(finite):
        raise UserError("no exit says a number: the weights are broken; train them again")
    index = torch.linspace(0, len(finite) - 1, n - 1, dtype=torch.float64).long()
    below = torch.nextafter(finite[:1], torch.tensor(-torch.inf, dtype=finite.dtype))
    return torch.cat([below, finite[index.to(finite.device)]])


def patience_thresholds(n_exits: int) -> Tensor:
    """Thresholds for every patience 1 … E; with E, no IC lets anyone go.

    Args:
        n_exits: E.
    """
    return torch.arange(1, n_exits + 1) - 0.5


def sweep(
    scores: Tensor, right: Tensor, costs: Tensor, thresholds: Tensor, right_at_end: Tensor
) -> Curve:
    """What each threshold does: equal to applying the exit rule anew for each.

    Args:
        scores: (N, E−1) of the ICs.
        right: (N, E−1) bool, whether each IC's answer is correct.
        costs: (E,) of leaving at each exit, relative to the backbone.
        thresholds: (T,), rising, of the scores' type.
        right_at_end: (N,) bool, whether the answer is correct that the fallback gives for a sample
            that no IC let go.

    Returns:
        The curve.
    """
    n = len(scores)
    nothing = torch.full((n, 1), -torch.inf, dtype=scores.dtype, device=scores.device)
    highest_before = torch.cat([nothing, scores], dim=1).cummax(dim=1).values
    thresholds = thresholds.to(scores)
    # Sample i leaves at exit m for the thresholds from the highest score before m up to the
    # highest score up to m: an index range, and each one begins where the one before ends.
    first = torch.searchsorted(thresholds, highest_before.contiguous())
    stays = torch.full((n, 1), len(thresholds), device=scores.device)
    end = torch.cat([first[:, 1:], stays], dim=1)
    correct = torch.cat([right, right_at_end.unsqueeze(1)], dim=1)
    shares, hits = (
        _cover(first, end, weights, len(thresholds)) / n
        for weights in (torch.ones_like(correct, dtype=torch.float64), correct.double())
    )
    return Curve(
        thresholds=thresholds,
        shares=shares,
        accuracy=hits.sum(dim=1),
        relative_macs=shares @ costs.to(shares),
    )


def _cover(first: Tensor, end: Tensor, weights: Tensor, n: int) -> Tensor:
    """Per exit and position 0 … n−1, the sum of the weights whose ranges cover the position.

    Args:
        first: (N, E) int64, where each range begins.
        end: (N, E) int64, where it ends, exclusive.
        weights: (N, E) float64.
        n: Number of positions.

    Returns:
        (n, E) float64.
    """
    steps = torch.zeros(n + 1, first.shape[1], dtype=torch.float64, device=first.device)
    steps.scatter_add_(0, first, weights)
    steps.scatter_add_(0, end, -weights)
    return steps.cumsum(dim=0)[:n]
