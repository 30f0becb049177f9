"""Ensembles of the exits reached so far.

Source: Wołczyk et al., "Zero Time Waste" (2021), section 3 and appendix C.2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn


class Ensemble(nn.Module, ABC):
    """At each exit m, one distribution out of those of the exits j ≤ m.

    Every exit has its own positive member weights and its own positive class biases, kept as
    logarithms. They start as the plain mean (geometric or arithmetic) of the members.

    Args:
        n_exits: Number of exits E that are ensembled.
        n_classes: Number of classes C.
    """

    SHIFT_INVARIANT: ClassVar[bool] = False
    """Whether adding a constant to a member's log-probabilities changes nothing, so that its
    logits do as well."""

    def __init__(self, n_exits: int, n_classes: int) -> None:
        super().__init__()
        members = torch.arange(1, n_exits + 1, dtype=torch.float32)
        self.log_weights = nn.Parameter(-members.log().unsqueeze(1).repeat(1, n_exits))
        """(E, E); row m holds exit m's weights, of which the first m + 1 count."""
        self.log_biases = nn.Parameter(self.initial_log_biases(n_exits, n_classes))
        """(E, C)."""

    @staticmethod
    @abstractmethod
    def initial_log_biases(n_exits: int, n_classes: int) -> Tensor:
        """(E, C), such that the biases leave the mean as it is, or nearly so."""

    @classmethod
    def combine(cls, log_probs: Tensor, weights: Tensor, log_bias: Tensor) -> Tensor:
        """One exit's distribution from its members'.

        Args:
            log_probs: (B, M, C), normalised over C.
            weights: (M,), positive.
            log_bias: (C,).

        Returns:
            (B, C) log-probabilities, normalised.
        """
        return cls.normalized(torch.matmul(weights, cls.members(log_probs)), log_bias)

    @property
    def n_exits(self) -> int:
        """Number of exits that are ensembled."""
        return self.log_weights.shape[0]

    def at(self, exit_index: int, log_probs: Tensor) -> Tensor:
        """The ensemble's distribution at one exit.

        Args:
            exit_index: m.
            log_probs: (B, m + 1, C), log-probabilities of the exits 0 … m.

        Returns:
            (B, C) log-probabilities.
        """
        weights = self.log_weights[exit_index, : exit_index + 1].to(log_probs.dtype).exp()
        return self.combine(log_probs, weights, self.log_biases[exit_index].to(log_probs.dtype))

    def fixed(self, exit_index: int) -> FixedEnsemble:
        """The ensemble at one exit as it is now, for what runs a trained model."""
        weights = self.log_weights[exit_index, : exit_index + 1].detach().float().exp()
        log_bias = self.log_biases[exit_index].detach().float().clone()
        return FixedEnsemble(type(self), weights, log_bias)

    def forward(self, log_probs: Tensor) -> Tensor:
        """The ensemble's distribution at every exit.

        Args:
            log_probs: (B, E, C).

        Returns:
            (B, E, C) log-probabilities.
        """
        return torch.stack([self.at(m, log_probs[:, : m + 1]) for m in range(self.n_exits)], dim=1)

    def fitted(self, log_probs: Tensor) -> Tensor:
        """The same as ``forward`` for finite input, in one matrix product: for training.

        A member that is not finite would spoil the exits before it, whose weight for it is zero.

        Args:
            log_probs: (B, E, C), finite.

        Returns:
            (B, E, C) log-probabilities.
        """
        return self.normalized(
            self.log_weights.exp().tril() @ self.members(log_probs), self.log_biases
        )

    @staticmethod
    @abstractmethod
    def members(log_probs: Tensor) -> Tensor:
        """What is summed over the members: a function of each one's log-probabilities."""

    @staticmethod
    @abstractmethod
    def normalized(mixed: Tensor, log_bias: Tensor) -> Tensor:
        """Log-probabilities (…, C) from the members' weighted sum (…, C) and the bias."""


class FixedEnsemble(nn.Module):
    """An ensemble at one exit m, from logits, with weights that no longer change.

    Answers are float32, whatever the network's arithmetic is.

    Args:
        kind: Geometric or additive.
        weights: (m + 1,), positive.
        log_bias: (C,).
    """

    weights: Tensor
    log_bias: Tensor

    def __init__(self, kind: type[Ensemble], weights: Tensor, log_bias: Tensor) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("weights", weights)
        self.register_buffer("log_bias", log_bias)

    def forward(self, logits: Tensor) -> Tensor:
        """(B, C) log-probabilities.

        Args:
            logits: (B, m + 1, C) of the exits 0 … m.
        """
        # Normalising shifts a member's logits by a constant each.
        members = logits if self.kind.SHIFT_INVARIANT else torch.log_softmax(logits, dim=-1)
        return self.kind.combine(members, self.weights, self.log_bias)


class GeometricEnsemble(Ensemble):
    """q_m ∝ b_m · Π_{j≤m} p_j^w_mj: log q_m = log_softmax(Σ_j w_mj log p_j + log b_m)."""

    SHIFT_INVARIANT = True

    @staticmethod
    def initial_log_biases(n_exits: int, n_classes: int) -> Tensor:
        """Zeros: a factor of one."""
        return torch.zeros(n_exits, n_classes)

    @staticmethod
    def members(log_probs: Tensor) -> Tensor:
        """The logarithms themselves: their sum is the product's logarithm."""
        return log_probs

    @staticmethod
    def normalized(mixed: Tensor, log_bias: Tensor) -> Tensor:
        """See ``Ensemble.normalized``."""
        return torch.log_softmax(mixed + log_bias, dim=-1)


class AdditiveEnsemble(Ensemble):
    """q_m ∝ Σ_{j≤m} w_mj p_j + b_m: the ablation."""

    @staticmethod
    def initial_log_biases(n_exits: int, n_classes: int) -> Tensor:
        """A hundredth of uniform: near zero, yet with a gradient to grow by."""
        return torch.full((n_exits, n_classes), -2.0) * torch.log(torch.tensor(10.0)) - (
            torch.log(torch.tensor(float(n_classes)))
        )

    @staticmethod
    def members(log_probs: Tensor) -> Tensor:
        """The probabilities."""
        return log_probs.exp()

    @staticmethod
    def normalized(mixed: Tensor, log_bias: Tensor) -> Tensor:
        """See ``Ensemble.normalized``."""
        biased = mixed + log_bias.exp()
        return biased.log() - biased.sum(dim=-1, keepdim=True).log()
