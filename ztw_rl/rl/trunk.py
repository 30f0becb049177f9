"""What runs a policy's frozen network while exits learn on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from ztw_rl.core.device import n_network_threads
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.errors import UserError
from ztw_rl.rl.config import EngineName

TOLERANCE = 1e-4
"""Largest difference of a log-probability at which two trunks answer alike."""


class Trunk(Protocol):
    """A policy's network without its ICs."""

    def reads(self, x: Tensor) -> Sequence[Tensor]:
        """What each IC reads, E−1 tensors, of (B, …) observations."""
        ...

    def logits(self, read: Tensor) -> Tensor:
        """(B, A) of the policy's own head, from what the last IC reads."""
        ...


class EagerTrunk:
    """In plain PyTorch; see ``Trunk``.

    Args:
        model: Its ICs are not used.
    """

    def __init__(self, model: EarlyExitModel) -> None:
        self._model = model

    def reads(self, x: Tensor) -> Sequence[Tensor]:
        """See ``Trunk``."""
        return tuple(islice(self._model.reads(x), self._model.n_exits - 1))

    def logits(self, read: Tensor) -> Tensor:
        """See ``Trunk``."""
        segment = self._model.segments[-1]
        return segment.classify(segment.read(read), None)[1]


@torch.no_grad()
def make_trunk(name: EngineName, model: EarlyExitModel, observations: Tensor) -> Trunk:
    """What runs a model's network.

    Args:
        name: ``fastest`` takes LiteRT on a CPU, if it is installed, can express the network and
            answers alike.
        model: Backbone and ICs, in eval mode.
        observations: (B, …), real ones, where the model is.
    """
    plain = EagerTrunk(model)
    if name == "eager" or observations.device.type != "cpu":
        return plain
    from ztw_rl.core.backends.litert.frozen import FrozenNetwork

    try:
        fast = FrozenNetwork(model, observations[:1], n_network_threads())
    except UserError:
        return plain
    return fast if _difference(model, plain, fast, observations) <= TOLERANCE else plain


def _difference(model: EarlyExitModel, one: Trunk, other: Trunk, observations: Tensor) -> float:
    """Largest, of any log-probability of any exit."""
    answers = []
    for trunk in (one, other):
        reads = trunk.reads(observations)
        logits = [*(found.logits for found in model.exits_of(reads)), trunk.logits(reads[-1])]
        answers.append(torch.log_softmax(torch.stack(logits).float(), dim=-1))
    return (answers[0] - answers[1]).abs().max().item()
