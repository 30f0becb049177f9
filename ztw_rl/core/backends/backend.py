"""The interface that all backends share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from ztw_rl.core.stage import StageFunction


class Prediction(NamedTuple):
    """What an early-exit model answers to a batch."""

    log_probs: Tensor
    """(B, C) of the exit that answers."""
    exits: Tensor
    """(B,) int64, the exit that answers; computation stopped there."""
    confidences: Tensor
    """(B,) the answer's highest probability."""

    @property
    def labels(self) -> Tensor:
        """(B,) int64, the likeliest class: the label, or a policy's greedy action."""
        return self.log_probs.argmax(dim=-1)


class Predictor(Protocol):
    """Runs a model exit by exit and stops where the answer is confident enough.

    The exit rule is ``exits.Confidence`` with the fallback ``exits.last``.
    """

    n_exits: int

    def predict(self, x: Tensor, thresholds: Sequence[float]) -> Prediction:
        """Answer a batch; samples that have left are computed no further.

        Args:
            x: (B, …), the network's input.
            thresholds: E−1, one per IC, representable in float32.
        """
        ...


class Backend(Predictor, Protocol):
    """A predictor that also shows its stages, and runs the backbone alone to be compared with."""

    name: str
    """For tables."""

    @property
    def stages(self) -> Sequence[StageFunction]:
        """One per exit, for batches of at least one, and for any rule: see ``runtime.decide``."""
        ...

    def backbone(self, x: Tensor) -> Tensor:
        """(B, C) logits of the backbone alone: no IC is evaluated."""
        ...
