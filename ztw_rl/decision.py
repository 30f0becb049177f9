"""What an early-exit model answers; numpy alone, so that deployed models need nothing else."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Rule = Literal["confidence", "margin", "gate"]
"""What an exit's answer is judged by: its highest probability, how far that is above the second
highest, or what a gate predicts that answering would cost."""


def bound(rule: Rule, threshold: float) -> float:
    """What the signal of an exit must exceed for it to answer.

    A confidence or a margin must exceed its threshold. A predicted regret must lie below it, and
    its signal is minus the regret.
    """
    return -threshold if rule == "gate" else threshold


def never(rule: Rule) -> float:
    """A finite threshold at which no exit answers before the last."""
    return -1e9 if rule == "gate" else 2.0


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
