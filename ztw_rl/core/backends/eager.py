"""Backends that run a model's segments as PyTorch functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ztw_rl.core.exits import Confidence
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import decide
from ztw_rl.core.segment import SegmentFunction
from ztw_rl.decision import Decision, answered


class Segments:
    """Runs one segment after another, with compaction in between; see ``backend.Predictor``.

    Args:
        segments: One per exit, see ``segment.Segment``.
    """

    def __init__(self, segments: Sequence[SegmentFunction]) -> None:
        self.n_exits = len(segments)
        self.segments = tuple(segments)

    @torch.inference_mode()
    def predict(self, x: Tensor, thresholds: Sequence[float]) -> Decision:
        """See ``Predictor.predict``."""
        if len(x) == 1:
            return self._predict_one(x, thresholds)
        return self._predict_batch(x, thresholds)

    def _predict_one(self, x: Tensor, thresholds: Sequence[float]) -> Decision:
        """One sample: nothing to compact, so nothing to keep track of."""
        logits = None
        for m, threshold in enumerate((*thresholds, -torch.inf)):
            x, logits, log_probs, confidence = self.segments[m](x, logits)
            if confidence.item() > threshold:
                break
        return answered(log_probs.cpu().numpy(), np.array([m]))

    def _predict_batch(self, x: Tensor, thresholds: Sequence[float]) -> Decision:
        return decide(self.segments, x, Confidence(torch.tensor(thresholds)))


class SegmentsBackend(Segments):
    """Segments, and the backbone beside them; see ``backend.Backend``.

    Args:
        name: For tables.
        segments: One per exit, see ``segment.Segment``.
        backbone: From the network's input to logits.
    """

    def __init__(
        self, name: str, segments: Sequence[SegmentFunction], backbone: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(segments)
        self.name = name
        self._backbone = backbone

    @torch.inference_mode()
    def backbone(self, x: Tensor) -> Tensor:
        """See ``Backend.backbone``."""
        return self._backbone(x)


def eager(model: EarlyExitModel) -> SegmentsBackend:
    """Plain PyTorch.

    Args:
        model: In eval mode.
    """
    return SegmentsBackend("eager PyTorch", model.answering(), model.backbone)
