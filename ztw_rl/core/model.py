"""A network with early exits: blocks, internal classifiers, ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ztw_rl.core.ensembles import Ensemble
from ztw_rl.core.heads import InternalClassifier
from ztw_rl.core.segment import Segment


class ExitOutput(NamedTuple):
    """What one exit reads, and what it says alone."""

    features: Tensor
    logits: Tensor
    """(B, C)."""


class EarlyExitModel(nn.Module):
    """A frozen backbone cut into blocks, with internal classifiers (ICs) after some of them.

    Exits are numbered 0 … E−1: the ICs in order of depth, then the backbone's own head. The work
    between two exits is a *segment*; running segment m after segment m−1 is all that exit m
    costs. Offline code goes through ``exits``, online code through the segments of ``answering``.

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
        bounds = (0, *attach, len(blocks))
        # A tuple, so that each layer is a parameter once, under its own name.
        self.segments = tuple(
            Segment(blocks[bounds[m] : bounds[m + 1]], classifier, is_head=m == len(ics))
            for m, classifier in enumerate((*ics, head))
        )
        """E, each exit alone; see ``answering``."""

    @property
    def n_exits(self) -> int:
        """Number of exits E, the backbone's head included."""
        return len(self.ics) + 1

    def is_ensembled(self, m: int) -> bool:
        """Whether exit m answers with the ensemble rather than alone."""
        return self.ensemble is not None and m < self.ensemble.n_exits

    def answering(self) -> tuple[Segment, ...]:
        """The segments with their ensembles, for what runs the model exit by exit.

        Layers are shared with the model; ensembles are fixed as they are now, so it should be
        trained.
        """
        return tuple(
            Segment(
                list(own.blocks),
                own.classifier,
                is_head=own.is_head,
                ensemble=self.ensemble.fixed(m)
                if self.ensemble is not None and self.is_ensembled(m)
                else None,
            ).eval()
            for m, own in enumerate(self.segments)
        )

    def backbone(self, x: Tensor) -> Tensor:
        """Logits of the backbone alone: no IC is evaluated.

        Args:
            x: The network's input.

        Returns:
            (B, C).
        """
        for segment in self.segments:
            x = segment.read(x)
        logits: Tensor = self.head(x)
        return logits

    def exits(self, x: Tensor) -> Iterator[ExitOutput]:
        """What each exit reads and says alone, one after another.

        What nobody asks for is not computed: taking the first m + 1 runs the segments 0 … m.

        Args:
            x: The network's input.

        Yields:
            E times.
        """
        previous: Tensor | None = None
        for segment in self.segments:
            x = segment.read(x)
            previous = segment.classify(x, previous)
            yield ExitOutput(x, previous)

    def ensembled(self, log_probs: Tensor) -> Tensor:
        """What every exit answers, from what every exit says alone.

        Args:
            log_probs: (B, E, C), each exit's own log-probabilities.

        Returns:
            (B, E, C) log-probabilities.
        """
        if self.ensemble is None:
            return log_probs
        n = self.ensemble.n_exits
        return torch.cat([self.ensemble(log_probs[:, :n]), log_probs[:, n:]], dim=1)

    def alone(self, x: Tensor) -> Tensor:
        """What every exit says before any ensembling.

        Args:
            x: The network's input.

        Returns:
            (B, E, C) log-probabilities.
        """
        logits = torch.stack([found.logits for found in self.exits(x)], dim=1)
        return torch.log_softmax(logits.float(), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """What every exit answers: the whole network, offline.

        Args:
            x: The network's input.

        Returns:
            (B, E, C) log-probabilities.
        """
        return self.ensembled(self.alone(x))
