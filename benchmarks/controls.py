"""What decisions are compared with: what knows more than a gate, and what is as sharp.

For ``benchmarks.rules``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from ztw_rl.core.backends.eager import SegmentsBackend
from ztw_rl.core.gates import GateSamples, halved
from ztw_rl.core.model import EarlyExitModel, SegmentFunction, SegmentOutput
from ztw_rl.core.runtime import Backend

Target = Callable[[Tensor, Tensor], Tensor]
"""From the full network's log-probabilities and the exits' to (N, E) regrets."""


def reverse_kl(full: Tensor, answers: Tensor) -> Tensor:
    """KL(q_m ‖ p): the soft regret without what it credits an exit for being sharp.

    Args:
        full: (N, C) log-probabilities of the full network.
        answers: (N, E, C) log-probabilities of exits.

    Returns:
        (N, E), 0 or more.
    """
    return (answers.exp() * (answers - full.unsqueeze(1))).sum(dim=-1)


def knowing(backend: Backend, target: Target) -> SegmentsBackend:
    """Exits that are judged by minus their true regret, which takes the whole network.

    Args:
        backend: Runs the model.
        target: The regret, from the full network's answer and the exits'.
    """
    n_exits = backend.n_exits

    def answer(m: int, known: Tensor) -> SegmentOutput:
        said, signals = known[:, :n_exits], known[:, n_exits:, 0]
        log_probs = said[:, m]
        confidence = log_probs.amax(dim=-1).exp()
        signal = signals[:, m] if m < n_exits - 1 else confidence
        return SegmentOutput(known, said[:, : m + 1], log_probs, confidence, signal)

    def first(x: Tensor, logits: Tensor | None) -> SegmentOutput:
        answers = []
        for segment in backend.segments:
            x, logits, log_probs, _, _ = segment(x, logits)
            answers.append(log_probs)
        said = torch.stack(answers, dim=1)
        signals = -target(said[:, -1], said[:, :-1])
        room = signals.unsqueeze(2).expand(-1, -1, said.shape[2])
        return answer(0, torch.cat([said, room], dim=1))

    def later(m: int) -> SegmentFunction:
        return lambda known, logits: answer(m, known)

    segments = [first, *(later(m) for m in range(1, n_exits))]
    return SegmentsBackend("knowing", segments, backend.backbone)


def sharpened(backend: Backend, temperature: float) -> SegmentsBackend:
    """The same network, every exit's probabilities at a temperature.

    Args:
        backend: Runs the model.
        temperature: Below 1 they are sharper.
    """

    def at_temperature(segment: SegmentFunction) -> SegmentFunction:
        def run(x: Tensor, logits: Tensor | None) -> SegmentOutput:
            found = segment(x, logits)
            return found._replace(log_probs=torch.log_softmax(found.log_probs / temperature, -1))

        return run

    segments = [at_temperature(segment) for segment in backend.segments]
    return SegmentsBackend("sharpened", segments, backend.backbone)


def temperature_for(log_probs: Tensor, entropy: float) -> float:
    """The temperature at which answers have a mean entropy.

    Args:
        log_probs: (N, C).
        entropy: In nats.
    """
    low, high = 0.01, 10.0
    for _ in range(40):
        middle = math.sqrt(low * high)
        if entropy_of(log_probs / middle) > entropy:
            high = middle
        else:
            low = middle
    return middle


def entropy_of(logits: Tensor) -> float:
    """Mean entropy in nats of the answers that (N, C) logits give."""
    log_probs = torch.log_softmax(logits, dim=-1)
    return float(-(log_probs.exp() * log_probs).sum(dim=-1).mean())


class Recorder:
    """A backend beside which all that exits say is written down, of every state it meets.

    Args:
        backend: Decides.
        model: The network.
        n_samples: After so many, no more is written down.
    """

    def __init__(self, backend: Backend, model: EarlyExitModel, n_samples: int) -> None:
        self.left = n_samples
        self._model = model
        self._parts: list[tuple[Tensor, ...]] = []

        def first(x: Tensor, logits: Tensor | None) -> SegmentOutput:
            if self.left > 0:
                self._write(x[: self.left])
            return backend.segments[0](x, logits)

        self.backend = SegmentsBackend("recorded", [first, *backend.segments[1:]], backend.backbone)

    def _write(self, x: Tensor) -> None:
        found = list(self._model.exits(x))
        logits = torch.stack([each.logits for each in found], dim=1)
        pooled = [halved(each.pooled) for each in islice(found, len(found) - 1)]
        self._parts.append((*pooled, torch.log_softmax(logits.float(), dim=-1)))
        self.left -= len(x)

    def samples(self) -> GateSamples:
        """What was written down."""
        *pooled, said = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        n_ics = said.shape[1] - 1
        answers = self._model.ensembled(said)[:, :n_ics]
        return GateSamples(tuple(pooled), answers, said[:, -1])


def joined(a: GateSamples, b: GateSamples) -> GateSamples:
    """Samples of both, in a random order, so that what is held out is of both."""
    order = torch.randperm(len(a) + len(b), generator=torch.Generator().manual_seed(0))
    return GateSamples(
        tuple(torch.cat(both) for both in zip(a.pooled, b.pooled, strict=True)),
        torch.cat([a.answers, b.answers]),
        torch.cat([a.full, b.full]),
    ).rows(order)
