"""The interface that all backends share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ztw_rl.core.segment import SegmentFunction
from ztw_rl.decision import Decision


class Predictor(Protocol):
    """Runs a model exit by exit and stops where the answer is confident enough.

    The exit rule is ``exits.Confidence`` with the fallback ``exits.last``.
    """

    n_exits: int

    def predict(self, x: Tensor, thresholds: Sequence[float]) -> Decision:
        """Answer a batch; samples that have left are computed no further.

        Args:
            x: (B, …), the network's input.
            thresholds: E−1, one per IC, representable in float32.
        """
        ...


class Backend(Predictor, Protocol):
    """A predictor that also shows its segments, and runs the backbone alone to be compared with."""

    name: str
    """For tables."""

    @property
    def segments(self) -> Sequence[SegmentFunction]:
        """One per exit, for batches of at least one, and for any rule: see ``runtime.decide``."""
        ...

    def backbone(self, x: Tensor) -> Tensor:
        """(B, C) logits of the backbone alone: no IC is evaluated."""
        ...
