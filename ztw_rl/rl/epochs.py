"""Passes over what was collected, one minibatch at a time, so that they fit between other work."""

from __future__ import annotations

import torch
from torch import Tensor

from ztw_rl.core.training import kl_to_teacher, minibatches
from ztw_rl.rl.collector import Experience
from ztw_rl.rl.phases import Phase


class Epochs:
    """Minimises KL(teacher ‖ IC), summed over the ICs, on one experience.

    Args:
        phase: What is fitted.
        experience: On what.
        optimizer: Of the phase's parameters.
        n_epochs: Passes over the experience.
        generator: Source of the minibatches' order.
    """

    def __init__(
        self,
        phase: Phase,
        experience: Experience,
        optimizer: torch.optim.Optimizer,
        n_epochs: int,
        generator: torch.Generator,
    ) -> None:
        self.experience = experience
        self._stage = phase
        self._optimizer = optimizer
        n = len(experience)
        self._order = [
            index for _ in range(n_epochs) for index in minibatches(n, phase.batch_size, generator)
        ]
        self._per_epoch = len(self._order) // n_epochs
        self._losses: list[Tensor] = []

    def advance(self, share: float) -> None:
        """Go on until this share, 0 … 1, of all minibatches is done."""
        while len(self._losses) < share * len(self._order):
            self._losses.append(self._update(self._order[len(self._losses)]))

    def finish(self) -> float:
        """Do what is left; returns the mean loss of the last pass, in nats."""
        self.advance(1.0)
        return torch.stack(self._losses[-self._per_epoch :]).mean().item()

    @torch.enable_grad()
    def _update(self, index: Tensor) -> Tensor:
        """One step of the optimiser; returns the () loss before it."""
        predicted = self._stage.predict(self.experience, index)
        loss = kl_to_teacher(predicted, self.experience.teacher_log_probs[index])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()
