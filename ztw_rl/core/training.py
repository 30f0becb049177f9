"""What fits internal classifiers and ensembles: losses, schedules, a watch for dead ReLUs."""

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


N_LOOKS = 20
"""Looks in a row that it takes: a single minibatch may leave a healthy layer at 0."""


class DeadReluWatch:
    """Notices modules that a silent layer has cut off from part of what they should learn.

    Args:
        modules: What learns; parameters that are frozen or have no part in the loss are passed
            over.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._looks_at_zero: list[dict[str, int]] = [{} for _ in self._modules]
        self._told: set[int] = set()

    def look(self) -> list[int]:
        """Look at the gradients of the last minibatch.

        Where all gradients are 0, nothing is left to learn, and that is no silence: behind a
        silent layer the last bias still has one.

        Returns:
            Modules of which some parameter had gradient 0, exactly and everywhere, at this look
            and the ``N_LOOKS − 1`` before it while another had not; each is told once only.
        """
        new = []
        for m, (module, counts) in enumerate(zip(self._modules, self._looks_at_zero, strict=True)):
            learns = _gradients(module)
            at_zero = {name for name, gradient in learns.items() if not gradient.any()}
            before = dict(counts)
            counts.clear()
            if len(at_zero) < len(learns):
                counts.update({name: before.get(name, 0) + 1 for name in at_zero})
            if m not in self._told and max(counts.values(), default=0) >= N_LOOKS:
                self._told.add(m)
                new.append(m)
        return new


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    """Of the parameters that learn, by name."""
    return {
        name: parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }
