"""The phases of distillation, what each fits and on what, and the passes over what was played.

Source: Wołczyk et al., "Zero Time Waste" (2021), appendix A.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ztw_rl.core.ensembles import Ensemble
from ztw_rl.core.heads import InternalClassifier
from ztw_rl.core.model import EarlyExitModel, ExitOutput
from ztw_rl.core.training import kl_to_teacher, minibatches
from ztw_rl.rl.collector import Experience
from ztw_rl.rl.config import DistillConfig
from ztw_rl.rl.networks.early_exit import PixelClassifier, kept_ics
from ztw_rl.rl.student import Student, StudentPhase


class Phase(Protocol):
    """One half of distillation: what is fitted, and on what."""

    name: str
    batch_size: int

    def parameters(self) -> Iterable[Tensor]:
        """What is fitted; all else stays as it is."""
        ...

    def on_pixels(self) -> Iterable[Tensor]:
        """Those of ``parameters`` whose layers begin at the pixels, not at the trunk's features."""
        ...

    def answers(self, ic_log_probs: Tensor) -> Tensor:
        """What the ICs answer while they act, (N, E−1, A) from (N, E−1, A)."""
        ...

    def reads(self, ics: Sequence[ExitOutput]) -> tuple[Tensor, ...]:
        """What the epochs read of the trunk: (N, …) tensors from what the ICs read in a step."""
        ...

    def predict(self, experience: Experience, index: Tensor) -> Tensor:
        """(B, E−1, A) log-probabilities of the samples at ``index``, with gradients."""
        ...

    def calls(self, m: int) -> str:
        """What the user knows the model's IC m as."""
        ...


class ICPhase:
    """Fits the ICs, cascade connections included, on what they keep of the trunk's features."""

    name = "ics"

    def __init__(self, model: EarlyExitModel, batch_size: int) -> None:
        self._model = model
        self._ics = kept_ics(model)
        self.batch_size = batch_size

    def parameters(self) -> Iterable[Tensor]:
        """See ``Phase``."""
        return [parameter for ic in self._ics for parameter in ic.parameters()]

    def on_pixels(self) -> Iterable[Tensor]:
        """See ``Phase``: an IC's on the input."""
        ics = [ic for ic in self._ics if isinstance(ic, PixelClassifier)]
        return [parameter for ic in ics for parameter in ic.parameters()]

    def answers(self, ic_log_probs: Tensor) -> Tensor:
        """See ``Phase``: each IC speaks for itself."""
        return ic_log_probs

    def reads(self, ics: Sequence[ExitOutput]) -> tuple[Tensor, ...]:
        """See ``Phase``: what each IC keeps, but for one on the pixels, which are kept anyway."""
        pairs = zip(self._ics, ics, strict=True)
        return tuple(
            ic.keep(found.features) for ic, found in pairs if isinstance(ic, InternalClassifier)
        )

    def predict(self, experience: Experience, index: Tensor) -> Tensor:
        """See ``Phase``."""
        logits: list[Tensor] = []
        reads = iter(experience.reads)
        for m, ic in enumerate(self._ics):
            previous = logits[-1] if logits else None
            if isinstance(ic, PixelClassifier):
                pixels = experience.observations[index].to(ic.linear.weight.device)
                logits.append(ic(self._model.segments[m].read(pixels), previous))
            else:
                kept = next(reads)
                chosen = kept.index_select(0, index.to(kept.device))
                logits.append(ic.from_kept(chosen, previous))
        return torch.log_softmax(torch.stack(logits, dim=1), dim=-1)

    def calls(self, m: int) -> str:
        """See ``Phase``."""
        return f"exit {m}"


class EnsemblePhase:
    """Fits the ensembles on the ICs' kept log-probabilities; the ICs no longer change."""

    name = "ensemble"

    def __init__(self, ensemble: Ensemble, batch_size: int) -> None:
        self._ensemble = ensemble
        self.batch_size = batch_size

    def parameters(self) -> Iterable[Tensor]:
        """See ``Phase``."""
        return self._ensemble.parameters()

    def on_pixels(self) -> Iterable[Tensor]:
        """See ``Phase``: none."""
        return ()

    def answers(self, ic_log_probs: Tensor) -> Tensor:
        """See ``Phase``: the ensembles speak."""
        combined: Tensor = self._ensemble(ic_log_probs)
        return combined

    def reads(self, ics: Sequence[ExitOutput]) -> tuple[Tensor, ...]:
        """See ``Phase``: nothing but what the ICs said."""
        return ()

    def predict(self, experience: Experience, index: Tensor) -> Tensor:
        """See ``Phase``."""
        combined: Tensor = self._ensemble(experience.ic_log_probs[index])
        return combined

    def calls(self, m: int) -> str:
        """See ``Phase``."""
        return f"exit {m}"


def build_phases(model: EarlyExitModel, config: DistillConfig) -> list[Phase]:
    """The phases that the model's parts call for."""
    if isinstance(model.ics[0], Student):
        return [StudentPhase(model, config.ic_batch_size)]
    phases: list[Phase] = [ICPhase(model, config.ic_batch_size)]
    if model.ensemble is not None:
        phases.append(EnsemblePhase(model.ensemble, config.ensemble_batch_size))
    return phases


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
        self._phase = phase
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
        predicted = self._phase.predict(self.experience, index)
        loss = kl_to_teacher(predicted, self.experience.teacher_log_probs[index])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()
