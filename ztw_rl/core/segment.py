"""The work between two exits, and the exit's answer: what a model runs, and a backend compiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ztw_rl.core.ensembles import FixedEnsemble


class SegmentOutput(NamedTuple):
    """What one segment hands to the next, and what its exit answers."""

    features: Tensor
    """What exit m read."""
    logits: Tensor
    """(B, m + 1, C), before any ensembling, of the exits 0 … m; of a head outside the ensemble
    its own alone, (B, 1, C)."""
    log_probs: Tensor
    """(B, C), exit m's answer."""
    confidence: Tensor
    """(B,), the answer's highest probability."""


SegmentFunction = Callable[[Tensor, Tensor | None], SegmentOutput]
"""A segment, called like ``Segment``. What the last one passes on, nobody reads."""


class Segment(nn.Module):
    """The blocks between exit m−1 and exit m, and exit m's classifier.

    Args:
        blocks: In order; none where two exits read the same.
        classifier: An internal classifier, called with features and its predecessor's logits, or
            the backbone's own head, called with features.
        is_head: Which of the two it is.
        ensemble: What exit m answers with; without one it answers alone.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        classifier: nn.Module,
        *,
        is_head: bool,
        ensemble: FixedEnsemble | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.classifier = classifier
        self.is_head = is_head
        self.ensemble = ensemble
        self.reads_logits = ensemble is not None or not is_head
        """Whether the exits before this one matter to it or to a later one."""

    def read(self, x: Tensor) -> Tensor:
        """What exit m reads.

        Args:
            x: The network's input for m = 0, else what exit m−1 read.
        """
        for block in self.blocks:
            x = block(x)
        return x

    def classify(self, features: Tensor, previous: Tensor | None) -> Tensor:
        """(B, C) logits of exit m alone.

        Args:
            features: What exit m reads.
            previous: (B, C) logits of exit m−1, if there is one.
        """
        logits: Tensor = (
            self.classifier(features) if self.is_head else self.classifier(features, previous)
        )
        return logits

    def forward(self, features: Tensor, logits: Tensor | None = None) -> SegmentOutput:
        """Run the segment. Logits are the only state beside features: all else follows from them.

        Args:
            features: The network's input for m = 0, else the previous segment's features.
            logits: (B, m, C), the previous segment's; none for m = 0.
        """
        features = self.read(features)
        own = self.classify(features, None if logits is None else logits[:, -1]).float()
        history = own.unsqueeze(1)
        if logits is not None and self.reads_logits:
            history = torch.cat([logits, history], dim=1)
        if self.ensemble is None:
            log_probs = torch.log_softmax(own, dim=-1)
        else:
            log_probs = self.ensemble(history)
        return SegmentOutput(features, history, log_probs, log_probs.amax(dim=-1).exp())
