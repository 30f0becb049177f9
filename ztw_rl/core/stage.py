"""The work between two exits as one function of tensors: what a backend runs or compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ztw_rl.core.ensembles import Ensemble
from ztw_rl.core.model import EarlyExitModel


class StageOutput(NamedTuple):
    """What one stage hands to the next, and what its exit says."""

    features: Tensor
    """What exit m read."""
    logits: Tensor
    """(B, m + 1, C), before any ensembling, of the exits 0 … m; of a head outside the ensemble
    its own alone, (B, 1, C)."""
    log_probs: Tensor
    """(B, C), exit m's answer."""
    confidence: Tensor
    """(B,), the answer's highest probability."""


StageFunction = Callable[[Tensor, Tensor | None], StageOutput]
"""Segment m and exit m, called like ``Stage``. What the last one passes on, nobody reads."""


class Stage(nn.Module):
    """Segment m and exit m of a model.

    The logits of all exits so far are the only state beside the features: cascade and ensemble
    both follow from them. The ensemble's weights are fixed here, so the model should be trained.

    Args:
        model: The model; its layers are shared, not copied.
        m: Exit, 0 … E−1.
    """

    def __init__(self, model: EarlyExitModel, m: int) -> None:
        super().__init__()
        bounds = (0, *model.attach, len(model.blocks))
        self.blocks = model.blocks[bounds[m] : bounds[m + 1]]
        self.is_head = m == len(model.ics)
        self.classifier = model.head if self.is_head else model.ics[m]
        self.ensemble: type[Ensemble] | None = None
        self.weights: Tensor
        self.log_bias: Tensor
        if model.ensemble is not None and model.is_ensembled(m):
            self.ensemble = type(model.ensemble)
            # Answers are float32, whatever the network's arithmetic is.
            weights = model.ensemble.log_weights[m, : m + 1].detach().float().exp()
            self.register_buffer("weights", weights)
            log_bias = model.ensemble.log_biases[m].detach().float().clone()
            self.register_buffer("log_bias", log_bias)
        self.reads_logits = self.ensemble is not None or not self.is_head
        """Whether the exits before this one matter to it or to a later one."""

    def forward(self, features: Tensor, logits: Tensor | None = None) -> StageOutput:
        """Run the stage.

        Args:
            features: The network's input for m = 0, else the previous stage's features.
            logits: (B, m, C), the previous stage's; none for m = 0.
        """
        for block in self.blocks:
            features = block(features)
        if self.is_head:
            own = self.classifier(features)
        else:
            own = self.classifier(features, None if logits is None else logits[:, -1])
        own = own.float()
        history = own.unsqueeze(1)
        if logits is not None and self.reads_logits:
            history = torch.cat([logits, history], dim=1)
        if self.ensemble is None:
            log_probs = torch.log_softmax(own, dim=-1)
        else:
            # Normalising shifts a member's logits by a constant each.
            invariant = self.ensemble.SHIFT_INVARIANT
            members = history if invariant else torch.log_softmax(history, dim=-1)
            log_probs = self.ensemble.combine(members, self.weights, self.log_bias)
        return StageOutput(features, history, log_probs, log_probs.amax(dim=-1).exp())


def stages(model: EarlyExitModel) -> list[StageFunction]:
    """All E stages of a model as plain PyTorch functions.

    Args:
        model: In eval mode, trained, and where it shall run.
    """
    return [Stage(model, m) for m in range(model.n_exits)]
