"""Backends that run a model's stages as PyTorch functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ztw_rl.core.backends.backend import Prediction
from ztw_rl.core.exits import Confidence
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import decide
from ztw_rl.core.stage import StageFunction, stages


class Stages:
    """Runs one stage after another, with compaction in between; see ``backend.Predictor``.

    Args:
        stages: One per exit, see ``stage.Stage``.
    """

    def __init__(self, stages: Sequence[StageFunction]) -> None:
        self.n_exits = len(stages)
        self.stages = tuple(stages)

    @torch.inference_mode()
    def predict(self, x: Tensor, thresholds: Sequence[float]) -> Prediction:
        """See ``Predictor.predict``."""
        if len(x) == 1:
            return self._predict_one(x, thresholds)
        return self._predict_batch(x, thresholds)

    def _predict_one(self, x: Tensor, thresholds: Sequence[float]) -> Prediction:
        """One sample: nothing to compact, so nothing to keep track of."""
        logits = None
        for m, threshold in enumerate((*thresholds, -torch.inf)):
            x, logits, log_probs, confidence = self.stages[m](x, logits)
            if confidence.item() > threshold:
                break
        return Prediction(log_probs, torch.tensor([m], device=log_probs.device), confidence)

    def _predict_batch(self, x: Tensor, thresholds: Sequence[float]) -> Prediction:
        rule = Confidence(torch.tensor(thresholds))
        log_probs, exits, _ = decide(self.stages, x, rule)
        return Prediction(log_probs, exits, log_probs.amax(dim=-1).exp())


class StagedBackend(Stages):
    """Stages, and the backbone beside them; see ``backend.Backend``.

    Args:
        name: For tables.
        stages: One per exit, see ``stage.Stage``.
        backbone: From the network's input to logits.
    """

    def __init__(
        self, name: str, stages: Sequence[StageFunction], backbone: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(stages)
        self.name = name
        self._backbone = backbone

    @torch.inference_mode()
    def backbone(self, x: Tensor) -> Tensor:
        """See ``Backend.backbone``."""
        return self._backbone(x)


def eager(model: EarlyExitModel) -> StagedBackend:
    """Plain PyTorch.

    Args:
        model: In eval mode.
    """
    return StagedBackend("eager PyTorch", stages(model), model.backbone)
