"""Losses and schedules that fit internal classifiers and ensembles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn


def kl_to_teacher(log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """KL(teacher ‖ exit), summed over the exits, averaged over the batch.

    Args:
        log_probs: (B, E, C), what each exit says.
        teacher_log_probs: (B, C).

    Returns:
        () loss, in nats.
    """
    teacher = teacher_log_probs.unsqueeze(1)
    return (teacher.exp() * (teacher - log_probs)).sum(dim=(1, 2)).mean()


def cross_entropy(log_probs: Tensor, labels: Tensor) -> Tensor:
    """−log p(label), summed over the exits, averaged over the batch.

    Args:
        log_probs: (B, E, C), what each exit says.
        labels: (B,) int64.

    Returns:
        () loss, in nats.
    """
    picked = log_probs.gather(2, labels.view(-1, 1, 1).expand(-1, log_probs.shape[1], 1))
    return -picked.sum(dim=(1, 2)).mean()


def first_ic_cosine(log_probs: Tensor, labels: Tensor, parameters: Sequence[Tensor]) -> float:
    """Cosine between what IC 0 wants of its parameters and what all ICs together want.

    With the gradient stopped in the cascade it is 1. The parameters' ``grad`` stays as it is, and
    so does the graph.

    Source: Wołczyk et al., "Zero Time Waste" (2021), appendix C.3.

    Args:
        log_probs: (B, E, C), with their graph.
        labels: (B,) int64.
        parameters: Those of IC 0.

    Returns:
        −1 … 1.
    """
    own, together = (
        torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(
                    cross_entropy(answers, labels),
                    parameters,
                    retain_graph=True,
                    materialize_grads=True,
                )
            ]
        )
        for answers in (log_probs[:, :1], log_probs)
    )
    return nn.functional.cosine_similarity(own, together, dim=0).item()


def piecewise_rate(progress: float, rates: Sequence[float], until: Sequence[float]) -> float:
    """Learning rate of a step schedule.

    Args:
        progress: Share of the training done, 0 … 1.
        rates: One rate per piece.
        until: Progress at which each piece but the last ends; increasing.
    """
    for rate, end in zip(rates, until, strict=False):
        if progress < end:
            return rate
    return rates[len(until)]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def minibatches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of one shuffled pass over n samples.

    Args:
        n: Number of samples.
        batch_size: Of every minibatch but perhaps the last.
        generator: Source of the order.

    Yields:
        (≤ batch_size,) int64.
    """
    order = torch.randperm(n, generator=generator)
    for start in range(0, n, batch_size):
        yield order[start : start + batch_size]


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all tensors hold finite numbers only; on a device, asked of it once.

    The loss says nothing of the step that is taken from it: of a last step only weights do.

    Args:
        tensors: At least one, of any shapes, on one device.
    """
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def freeze(module: nn.Module) -> None:
    """Stop a module from learning: no gradients, and normalisation statistics stay put."""
    module.requires_grad_(False)
    module.eval()
