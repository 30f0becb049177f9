"""A network with early exits: blocks, internal classifiers, ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ztw_rl.core.ensembles import Ensemble
from ztw_rl.core.heads import InternalClassifier


class EarlyExitModel(nn.Module):
    """A frozen backbone cut into blocks, with internal classifiers (ICs) after some of them.

    Exits are numbered 0 … E−1: the ICs in order of depth, then the backbone's own head. The work
    between two exits is a *segment*; running segment m after segment m−1 is all that exit m
    costs. Offline code calls ``activations``, ``ic_logits`` and ``ensembled``; online code
    runs one segment after another, as ``core.stage`` cuts them.

    Args:
        blocks: The backbone without its head, in order.
        head: From the last block's features to (B, C) logits.
        ics: E−1 internal classifiers, called with features and the predecessor's logits; the
            first has no predecessor, so it must not cascade.
        attach: For each IC, how many blocks lie before it; increasing.
        ensemble: Over the first ``ensemble.n_exits`` exits, or none. E−1 leaves the backbone's
            head as it is; E takes it in.

    Raises:
        ValueError: The parts do not fit together.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        head: nn.Module,
        ics: Sequence[nn.Module],
        attach: Sequence[int],
        ensemble: Ensemble | None = None,
    ) -> None:
        super().__init__()
        if len(attach) != len(ics):
            raise ValueError(f"{len(ics)} ICs need as many places, but {len(attach)} are given")
        if list(attach) != sorted(set(attach)) or (attach and not attach[0] > 0):
            raise ValueError(f"places must be positive and increasing, not {list(attach)}")
        if attach and attach[-1] > len(blocks):
            raise ValueError(f"an IC after block {attach[-1]}, but there are {len(blocks)} blocks")
        if ics and isinstance(ics[0], InternalClassifier) and ics[0].config.cascade:
            raise ValueError("the first IC has no predecessor to cascade from")
        if ensemble is not None and ensemble.n_exits not in (len(ics), len(ics) + 1):
            raise ValueError(f"an ensemble of {ensemble.n_exits} exits over {len(ics)} ICs")
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.ics = nn.ModuleList(ics)
        self.attach = tuple(attach)
        self.ensemble = ensemble

    @property
    def n_exits(self) -> int:
        """Number of exits E, the backbone's head included."""
        return len(self.ics) + 1

    def features(self, m: int, x: Tensor) -> Tensor:
        """Run the blocks between exit m−1 and exit m; none of the classifiers.

        Args:
            m: Exit, 0 … E−1.
            x: The network's input for m = 0, else what ``features(m − 1, …)`` returned.

        Returns:
            What exit m reads.
        """
        bounds = (0, *self.attach, len(self.blocks))
        for block in self.blocks[bounds[m] : bounds[m + 1]]:
            x = block(x)
        return x

    def classify(self, m: int, features: Tensor, previous: Tensor | None) -> Tensor:
        """Logits of exit m, before any ensembling.

        Args:
            m: Exit, 0 … E−1.
            features: What ``features(m, …)`` returned.
            previous: (B, C) logits of exit m−1, if there is one.

        Returns:
            (B, C).
        """
        if m == len(self.ics):
            logits: Tensor = self.head(features)
        else:
            logits = self.ics[m](features, previous)
        return logits

    def is_ensembled(self, m: int) -> bool:
        """Whether exit m answers with the ensemble rather than alone."""
        return self.ensemble is not None and m < self.ensemble.n_exits

    def backbone(self, x: Tensor) -> Tensor:
        """Logits of the backbone alone: no IC is evaluated.

        Args:
            x: The network's input.

        Returns:
            (B, C).
        """
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits

    def activations(self, x: Tensor) -> list[Tensor]:
        """What each exit reads, first to last: the trunk's work, and all of it.

        Args:
            x: The network's input.

        Returns:
            E tensors.
        """
        found = []
        for m in range(self.n_exits):
            x = self.features(m, x)
            found.append(x)
        return found

    def ic_logits(self, activations: Sequence[Tensor]) -> Tensor:
        """Logits of all ICs, each seeing its predecessor's where it cascades.

        Args:
            activations: What the ICs read; E−1 tensors or more.

        Returns:
            (B, E−1, C).
        """
        logits: list[Tensor] = []
        for m in range(len(self.ics)):
            logits.append(self.classify(m, activations[m], logits[-1] if logits else None))
        return torch.stack(logits, dim=1)

    def ensembled(self, log_probs: Tensor) -> Tensor:
        """What every exit says, from what every exit says alone.

        Args:
            log_probs: (B, E, C), each exit's own log-probabilities.

        Returns:
            (B, E, C) log-probabilities.
        """
        if self.ensemble is None:
            return log_probs
        n = self.ensemble.n_exits
        return torch.cat([self.ensemble(log_probs[:, :n]), log_probs[:, n:]], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """What every exit says: the whole network, offline.

        Args:
            x: The network's input.

        Returns:
            (B, E, C) log-probabilities.
        """
        activations = self.activations(x)
        head = self.head(activations[-1]).unsqueeze(1)
        logits = torch.cat([self.ic_logits(activations), head], dim=1) if self.ics else head
        return self.ensembled(torch.log_softmax(logits.float(), dim=-1))
