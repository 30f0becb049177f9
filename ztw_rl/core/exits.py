"""Exit rules: which exit answers.

A rule looks at the answers of the exits reached so far, and at what the newest is judged by, and
says who leaves. It is a pure function of them, so the same rule serves offline selection
(``select``), where every exit is known, and online inference (``core.runtime``), where later exits
are never computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

RuleT = TypeVar("RuleT", bound="ExitRule")


class ExitRule(Protocol):
    """Decides, sample by sample, whether the newest exit answers."""

    def leaves(self, answers: Tensor, signal: Tensor) -> Tensor:
        """Who leaves at the newest exit.

        Args:
            answers: (B, m + 1, C), log-probabilities of exits 0 … m, of which m is an IC.
            signal: (B,), what exit m's answer is judged by; see ``core.signals``.

        Returns:
            (B,) bool.
        """
        ...

    def rows(self: RuleT, index: Tensor) -> RuleT:
        """The rule for some of the samples.

        Args:
            index: (B',) positions, or (B,) bool.
        """
        ...

    def to(self: RuleT, device: torch.device) -> RuleT:
        """The rule where the answers are, which the other methods take for granted."""
        ...


@dataclass(frozen=True)
class Exceeds:
    """Leave when the signal exceeds a bound, such as the confidence a threshold τ.

    NaN never exceeds anything, so a broken sample runs to the end.
    """

    bound: Tensor
    """(E−1,) one per IC, or (B, E−1) one per sample and IC."""

    @classmethod
    def uniform(cls, bound: float, n_exits: int) -> Exceeds:
        """The same bound for every sample and every one of the E−1 ICs."""
        return cls(torch.full((n_exits - 1,), bound))

    @classmethod
    def forced(cls, exits: Tensor, n_exits: int) -> Exceeds:
        """Bounds that make sample i leave at ``exits[i]``, whatever it says.

        Args:
            exits: (B,) exits, 0 … E−1.
            n_exits: E.
        """
        chosen = exits.unsqueeze(1) == torch.arange(n_exits - 1, device=exits.device)
        return cls(torch.where(chosen, -torch.inf, torch.inf))

    def leaves(self, answers: Tensor, signal: Tensor) -> Tensor:
        """See ``ExitRule.leaves``."""
        return signal > self.bound[..., answers.shape[1] - 1]

    def rows(self, index: Tensor) -> Exceeds:
        """See ``ExitRule.rows``."""
        return self if self.bound.ndim == 1 else Exceeds(self.bound[index])

    def to(self, device: torch.device) -> Exceeds:
        """See ``ExitRule.to``."""
        return Exceeds(self.bound.to(device))


@dataclass(frozen=True)
class Patience:
    """Leave when the last t exits agree (Zhou et al., "BERT Loses Patience", 2020: PBEE)."""

    patience: Tensor
    """t ≥ 1, int64: () for all samples, or (B,) one each."""

    def leaves(self, answers: Tensor, signal: Tensor) -> Tensor:
        """See ``ExitRule.leaves``."""
        labels = answers.argmax(dim=-1).flip(1)
        streak = (labels == labels[:, :1]).long().cumprod(dim=1).sum(dim=1)
        return (streak >= self.patience) & ~answers[:, -1].isnan().any(dim=-1)

    def rows(self, index: Tensor) -> Patience:
        """See ``ExitRule.rows``."""
        return self if self.patience.ndim == 0 else Patience(self.patience[index])

    def to(self, device: torch.device) -> Patience:
        """See ``ExitRule.to``."""
        return Patience(self.patience.to(device))


class Fallback(Protocol):
    """Decides who answers for the samples that no IC let go."""

    def __call__(self, answers: Tensor) -> Tensor:
        """The answering exit.

        Args:
            answers: (B, E, C) log-probabilities of all exits.

        Returns:
            (B,) exits.
        """
        ...


def last(answers: Tensor) -> Tensor:
    """The backbone's head answers; see ``Fallback``."""
    return torch.full((answers.shape[0],), answers.shape[1] - 1, device=answers.device)


def most_confident(answers: Tensor) -> Tensor:
    """The exit with the highest probability answers (SDN's own rule); see ``Fallback``.

    An exit that says NaN is asked last.
    """
    return answers.amax(dim=-1).nan_to_num(nan=-torch.inf, neginf=-torch.inf).argmax(dim=1)


def select(
    answers: Tensor, rule: ExitRule, fallback: Fallback = last, signals: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Where each sample leaves and which exit answers, with every exit known.

    Args:
        answers: (B, E, C) log-probabilities.
        rule: Who leaves.
        fallback: Who answers for a sample that nobody let go.
        signals: (B, E−1), what each IC's answer is judged by; by default its confidence.

    Returns:
        (B,) exits at which the samples leave (E−1 if no IC let them go), and (B,) exits that
        answer, which differ only where ``fallback`` chose another than E−1.
    """
    n_exits = answers.shape[1]
    rule = rule.to(answers.device)
    if signals is None:
        signals = answers[:, :-1].amax(dim=-1).exp()
    left_at = torch.full((answers.shape[0],), n_exits - 1, device=answers.device)
    for m in reversed(range(n_exits - 1)):
        left_at = torch.where(rule.leaves(answers[:, : m + 1], signals[:, m]), m, left_at)
    answering = torch.where(left_at == n_exits - 1, fallback(answers), left_at)
    return left_at, answering
