"""A network with early exits: blocks, internal classifiers, ensemble."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from ztw_rl.core.ensembles import AdditiveEnsemble, Ensemble, FixedEnsemble, GeometricEnsemble
from ztw_rl.core.gates import Gate
from ztw_rl.core.heads import InternalClassifier
from ztw_rl.core.signals import Margin, Signal
from ztw_rl.decision import Rule
from ztw_rl.errors import UserError

CONFIDENCE, MARGIN = "confidence", "margin"
"""What exits can be judged by without gates."""


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
    signal: Tensor
    """(B,), what an exit rule compares; the confidence unless another was chosen."""


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
        signal: What its answer is judged by; by default its confidence.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        classifier: nn.Module,
        *,
        is_head: bool,
        ensemble: FixedEnsemble | None = None,
        signal: Signal | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.classifier = classifier
        self.is_head = is_head
        self.ensemble = ensemble
        self.signal = signal
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

    def classify(self, features: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the classifier's linear layer reads, (B, D), and (B, C) logits of exit m alone.

        Args:
            features: What exit m reads.
            previous: (B, C) logits of exit m−1, if there is one.
        """
        if self.is_head:
            logits: Tensor = self.classifier(features)
            return features, logits
        pooled: Tensor = self.classifier.pooled(features)  # type: ignore[operator]
        return pooled, self.classifier.answer(pooled, previous)  # type: ignore[operator]

    def forward(self, features: Tensor, logits: Tensor | None = None) -> SegmentOutput:
        """Run the segment. Logits are the only state beside features: all else follows from them.

        Args:
            features: The network's input for m = 0, else the previous segment's features.
            logits: (B, m, C), the previous segment's; none for m = 0.
        """
        features = self.read(features)
        pooled, own = self.classify(features, None if logits is None else logits[:, -1])
        own = own.float()
        history = own.unsqueeze(1)
        if logits is not None and self.reads_logits:
            history = torch.cat([logits, history], dim=1)
        if self.ensemble is None:
            log_probs = torch.log_softmax(own, dim=-1)
        else:
            log_probs = self.ensemble(history)
        confidence = log_probs.exp().amax(dim=-1)
        signal = confidence
        if self.signal is not None:
            signal = self.signal(pooled, log_probs)
        return SegmentOutput(features, history, log_probs, confidence, signal)


class ExitOutput(NamedTuple):
    """What one exit reads, and what it says alone."""

    features: Tensor
    pooled: Tensor
    """(B, D), what its linear layer reads of them; of the head, all."""
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
        gates: Sets of E−1 gates, by the name of what they predict.
        judged_by: What exits are judged by in ``answering``: ``confidence``, ``margin``, or the
            name of a set of gates.

    Raises:
        ValueError: The parts do not fit together.
        UserError: There are no such gates.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        head: nn.Module,
        ics: Sequence[nn.Module],
        attach: Sequence[int],
        ensemble: Ensemble | None = None,
        gates: Mapping[str, Sequence[nn.Module]] | None = None,
        judged_by: str = CONFIDENCE,
    ) -> None:
        super().__init__()
        if len(attach) != len(ics):
            raise ValueError(f"{len(ics)} ICs need as many places, but {len(attach)} are given")
        if list(attach) != sorted(set(attach)) or (attach and not attach[0] > 0):
            raise ValueError(f"places must be positive and increasing, not {list(attach)}")
        if attach and attach[-1] > len(blocks):
            raise ValueError(f"an IC after block {attach[-1]}, but there are {len(blocks)} blocks")
        if ics and isinstance(ics[0], InternalClassifier) and ics[0].connection.cascade:
            raise ValueError("the first IC has no predecessor to cascade from")
        if ensemble is not None and ensemble.n_exits not in (len(ics), len(ics) + 1):
            raise ValueError(f"an ensemble of {ensemble.n_exits} exits over {len(ics)} ICs")
        gates = gates or {}
        if any(len(each) != len(ics) for each in gates.values()):
            raise ValueError(f"{len(ics)} ICs need as many gates")
        if judged_by not in (CONFIDENCE, MARGIN, *gates):
            raise UserError(f"the model has no gates for {judged_by}")
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.ics = nn.ModuleList(ics)
        self.attach = tuple(attach)
        self.ensemble = ensemble
        self.gates = nn.ModuleDict({name: nn.ModuleList(each) for name, each in gates.items()})
        self.judged_by = judged_by
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
                signal=None if own.is_head else self._signal(m),
            ).eval()
            for m, own in enumerate(self.segments)
        )

    def _signal(self, m: int) -> Signal | None:
        """What exit m is judged by, unless that is its confidence."""
        if self.judged_by == CONFIDENCE:
            return None
        if self.judged_by == MARGIN:
            return Margin()
        return self.gates_of(self.judged_by)[m].fixed()

    @property
    def rule(self) -> Rule:
        """What kind of signal exits are judged by."""
        if self.judged_by in get_args(Rule):
            return cast("Rule", self.judged_by)
        return "gate"

    def gates_of(self, name: str) -> list[Gate]:
        """The E−1 gates of a set.

        Args:
            name: Of what they predict.
        """
        gates = self.gates[name]
        assert isinstance(gates, nn.ModuleList)
        return [gate for gate in gates if isinstance(gate, Gate)]

    def judged(self, by: str) -> EarlyExitModel:
        """The same layers, with exits judged by something else.

        Args:
            by: ``confidence``, ``margin``, or the name of a set of gates.

        Raises:
            UserError: There are no such gates.
        """
        gates = {name: self.gates_of(name) for name in self.gates}
        model = EarlyExitModel(
            list(self.blocks), self.head, list(self.ics), self.attach, self.ensemble, gates, by
        )
        return model.train(self.training)

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

    def reads(self, x: Tensor) -> Iterator[Tensor]:
        """What each exit reads, one after another; see ``exits``.

        Args:
            x: The network's input.

        Yields:
            E times.
        """
        for segment in self.segments:
            x = segment.read(x)
            yield x

    def exits(self, x: Tensor) -> Iterator[ExitOutput]:
        """What each exit reads and says alone, one after another.

        What nobody asks for is not computed: taking the first m + 1 runs the segments 0 … m.

        Args:
            x: The network's input.

        Returns:
            E times.
        """
        return self.exits_of(self.reads(x))

    def exits_of(self, reads: Iterable[Tensor]) -> Iterator[ExitOutput]:
        """The same from what the exits read, of all or of the first.

        Args:
            reads: From ``reads``, or from what else runs the network's blocks.

        Yields:
            As often as there are reads.
        """
        previous: Tensor | None = None
        for read, segment in zip(reads, self.segments, strict=False):
            pooled, previous = segment.classify(read, previous)
            yield ExitOutput(read, pooled, previous)

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


@dataclass(frozen=True)
class Method:
    """Which parts an early-exit model has beside its plain ICs."""

    cascade: bool
    """Each IC sees its predecessor's logits."""
    ensemble: type[Ensemble] | None = None
    """How the exits reached so far are combined."""
    stop_gradient: bool = True
    """Cascade connections shield the predecessor from the successor's loss."""


METHODS: dict[str, Method] = {
    "ztw": Method(cascade=True, ensemble=GeometricEnsemble),
    "sdn": Method(cascade=False),
    "cascade": Method(cascade=True),
    "ensemble": Method(cascade=False, ensemble=GeometricEnsemble),
    "additive": Method(cascade=True, ensemble=AdditiveEnsemble),
    "no_stop_gradient": Method(cascade=True, ensemble=GeometricEnsemble, stop_gradient=False),
}
"""By name. PBEE is no model of its own: it is ``sdn`` under the patience rule."""


def without_ensemble(name: str) -> str:
    """The method whose model is the same but for the ensembles.

    Args:
        name: One of ``METHODS``.

    Raises:
        ValueError: It has no ensembles, or no other method has its ICs.
    """
    wanted = replace(METHODS[name], ensemble=None)
    for other, method in METHODS.items():
        if method == wanted and other != name:
            return other
    raise ValueError(f"{name} is no other method with ensembles on top")
