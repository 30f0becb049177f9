"""What an early-exit model answers; numpy alone, so that deployed models need nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Decision(NamedTuple):
    """What an early-exit model answers to a batch."""

    labels: npt.NDArray[np.int64]
    """(B,) the likeliest class: the label, or a policy's greedy action."""
    exits: npt.NDArray[np.int64]
    """(B,) the exit that answered. Computation stopped there, unless a sample that no exit let go
    was given to an earlier one."""
    confidences: npt.NDArray[np.floating[Any]]
    """(B,) the answer's highest probability."""
    log_probs: npt.NDArray[np.floating[Any]]
    """(B, C) log-probabilities of the exit that answered."""

    @property
    def actions(self) -> npt.NDArray[np.int64]:
        """``labels`` by their name for policies: (B,) greedy actions."""
        return self.labels


def answered(log_probs: npt.NDArray[np.floating[Any]], exits: npt.NDArray[np.int64]) -> Decision:
    """The decision that log-probabilities amount to.

    Args:
        log_probs: (B, C) of the exits that answer.
        exits: (B,) which those are.
    """
    return Decision(log_probs.argmax(axis=1), exits, np.exp(log_probs.max(axis=1)), log_probs)
