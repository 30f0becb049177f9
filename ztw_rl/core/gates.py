"""Gates: per exit a small head that predicts what leaving there costs, its regret.

A sample leaves at the first exit whose predicted regret is below a threshold. What is predicted is
a target: a function of the full network's answer and the exit's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ztw_rl.core.signals import Signal

N_HIDDEN = 64
SHARE_OF_MACS = 0.006
"""Of the network's operations, what one gate may take."""
FEWEST_HIDDEN = 8
FLOOR = -6.0
"""Log-probabilities below this count as this."""
FEATURE_SCALE = 0.1
"""Standard deviation of the pooled features as a gate reads them."""
N_TOP = 8
MANY_CLASSES = 32
"""Of more classes, a gate reads the highest probabilities only."""


def n_said(n_classes: int) -> int:
    """How many numbers a gate reads beside the pooled features; see ``said``."""
    return n_classes if n_classes <= MANY_CLASSES else N_TOP


def said(log_probs: Tensor) -> Tensor:
    """What a gate reads of the exit's answer.

    Args:
        log_probs: (B, C).

    Returns:
        (B, ``n_said``) probabilities: all of them, or the highest of many.
    """
    probabilities = log_probs.exp()
    if log_probs.shape[1] <= MANY_CLASSES:
        return probabilities
    return probabilities.topk(N_TOP, dim=-1).values


class Gate(nn.Module):
    """Predicts the regret of leaving at an exit: one hidden layer.

    Args:
        n_pooled: Of the pooled features of the exit's classifier.
        n_classes: C, two or more.
        network_macs: Operations of the full network, of which the gate takes a small share.
    """

    mean: Tensor
    scale: Tensor
    regret_mean: Tensor
    regret_deviation: Tensor

    def __init__(self, n_pooled: int, n_classes: int, network_macs: int) -> None:
        super().__init__()
        n_inputs = n_pooled + n_said(n_classes)
        affordable = int(SHARE_OF_MACS * network_macs) // (n_inputs + 1)
        n_hidden = max(FEWEST_HIDDEN, min(N_HIDDEN, affordable))
        self.n_pooled = n_pooled
        self.hidden = nn.Linear(n_inputs, n_hidden)
        self.out = nn.Linear(n_hidden, 1)
        # What it predicts before it has learnt anything is the mean.
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("mean", torch.zeros(n_pooled))
        self.register_buffer("scale", torch.ones(n_pooled))
        self.register_buffer("regret_mean", torch.zeros(()))
        self.register_buffer("regret_deviation", torch.ones(()))

    @torch.no_grad()
    def standardize(self, pooled: Tensor, regrets: Tensor) -> None:
        """Take means and deviations from samples, once, before learning.

        Args:
            pooled: (N, n_pooled).
            regrets: (N,).
        """
        pooled = pooled.float()
        deviation = pooled.std(dim=0, correction=0)
        self.mean.copy_(pooled.mean(dim=0))
        # A feature that never moves says nothing, and dividing by next to nothing would shout it.
        self.scale.copy_(
            torch.where(deviation > 1e-4, FEATURE_SCALE / deviation.clamp_min(1e-4), 0.0)
        )
        self.regret_mean.copy_(regrets.mean())
        self.regret_deviation.copy_(regrets.std(correction=0).clamp_min(1e-6))

    def standardized(
        self,
        pooled: Tensor,
        log_probs: Tensor,
        drop: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        """(B,) predicted regret in deviations from the mean regret: what learning fits.

        Args:
            pooled: (B, D); see ``Signal``.
            log_probs: (B, C).
            drop: Leaves out some of the (B, D + ``n_said``) inputs at random.
        """
        x = torch.cat([(pooled.float() - self.mean) * self.scale, said(log_probs)], dim=1)
        predicted: Tensor = self.out(F.relu(self.hidden(drop(x)))).squeeze(1)
        return predicted

    def forward(self, pooled: Tensor, log_probs: Tensor) -> Tensor:
        """(B,) predicted regret; see ``Signal.forward`` for the arguments."""
        predicted = self.standardized(pooled, log_probs)
        return predicted * self.regret_deviation + self.regret_mean

    def fixed(self) -> FixedGate:
        """The gate as it is now, for what runs a trained model."""
        return FixedGate(self)


def make_gates(n_pooled: Sequence[int], n_classes: int, network_macs: int) -> list[Gate]:
    """One gate for each exit, their parameters random.

    Args:
        n_pooled: Of each exit's classifier.
        n_classes: C, two or more.
        network_macs: See ``Gate``.
    """
    return [Gate(n, n_classes, network_macs) for n in n_pooled]


class FixedGate(Signal):
    """A trained gate as a signal, minus the predicted regret, its scales inside its weights.

    Args:
        gate: Which no longer changes.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        n = gate.n_pooled
        weight = gate.hidden.weight.detach().double().clone()
        scale, mean = gate.scale.double(), gate.mean.double()
        bias = gate.hidden.bias.detach().double() - weight[:, :n] @ (mean * scale)
        weight[:, :n] *= scale
        self.hidden = _linear(weight, bias)
        deviation, shift = gate.regret_deviation.double(), gate.regret_mean.double()
        weight, bias = gate.out.weight.detach().double(), gate.out.bias.detach().double()
        self.out = _linear(-weight * deviation, -(bias * deviation + shift))

    def forward(self, pooled: Tensor, log_probs: Tensor) -> Tensor:
        """See ``Signal``."""
        x = torch.cat([pooled.float(), said(log_probs)], dim=1)
        signal: Tensor = self.out(F.relu(self.hidden(x))).squeeze(1)
        return signal


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).to(weight.device)
    layer.requires_grad_(False)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer


def soft_regret(full: Tensor, answers: Tensor) -> Tensor:
    """Σ_a (p(a) − q_m(a)) · max(log p(a), −6), in nats: what sampling from q_m instead of p costs.

    For an optimal policy with an entropy bonus, log p is the advantage but for a constant and the
    temperature, and this is one step's part of the performance difference; see Kakade and Langford,
    "Approximately Optimal Approximate Reinforcement Learning" (2002). It is negative where an exit
    is sharper than the policy.

    Args:
        full: (N, C) log-probabilities of the full network.
        answers: (N, E, C) log-probabilities of exits.

    Returns:
        (N, E).
    """
    advantage = full.clamp_min(FLOOR).unsqueeze(1)
    return ((full.exp().unsqueeze(1) - answers.exp()) * advantage).sum(dim=-1)


def greedy_regret(full: Tensor, answers: Tensor) -> Tensor:
    """max_a p(a) − p(argmax_a q_m(a)): what doing the exit's likeliest action costs.

    Args:
        full: (N, C) log-probabilities of the full network.
        answers: (N, E, C) log-probabilities of exits.

    Returns:
        (N, E), 0 … 1.
    """
    probabilities = full.exp()
    chosen = probabilities.gather(1, answers.argmax(dim=-1))
    return probabilities.amax(dim=-1, keepdim=True) - chosen


def disagreement(full: Tensor, answers: Tensor) -> Tensor:
    """1 where an exit's likeliest class is not the full network's, else 0.

    Args:
        full: (N, C) log-probabilities of the full network.
        answers: (N, E, C) log-probabilities of exits.

    Returns:
        (N, E).
    """
    return (answers.argmax(dim=-1) != full.argmax(dim=-1, keepdim=True)).float()


def kl_regret(full: Tensor, answers: Tensor) -> Tensor:
    """KL(p ‖ q_m), in nats: how far an exit is from the full network.

    Args:
        full: (N, C) log-probabilities of the full network.
        answers: (N, E, C) log-probabilities of exits.

    Returns:
        (N, E), 0 or more.
    """
    target = full.unsqueeze(1)
    return (target.exp() * (target - answers)).sum(dim=-1)


def error_regret(full: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
    """1 where only the full network is right, −1 where only the exit is, else 0.

    Args:
        full: (N, C) log-probabilities of the full network.
        answers: (N, E, C) log-probabilities of exits.
        labels: (N,) int64.

    Returns:
        (N, E).
    """
    right = (full.argmax(dim=-1) == labels).float().unsqueeze(1)
    return right - (answers.argmax(dim=-1) == labels.unsqueeze(1)).float()


def halved(pooled: Tensor) -> Tensor:
    """Features in half precision, as many of them are kept; what is too large stops at the end."""
    largest = torch.finfo(torch.float16).max
    return pooled.clamp(-largest, largest).half()


@dataclass(frozen=True)
class GateSamples:
    """What gates learn from: N samples, each with all that the E−1 ICs know of it."""

    pooled: tuple[Tensor, ...]
    """E−1 of (N, D_m) pooled features, of any precision."""
    answers: Tensor
    """(N, E−1, C) log-probabilities that each answers."""
    full: Tensor
    """(N, C) log-probabilities of the full network."""

    def __len__(self) -> int:
        """N."""
        return len(self.full)

    def known(self, m: int) -> tuple[Tensor, Tensor]:
        """What exit m's gate reads of the samples; see ``Signal.forward``."""
        return self.pooled[m], self.answers[:, m]

    def rows(self, index: Tensor | slice) -> GateSamples:
        """Some of the samples."""
        pooled = tuple(part[index] for part in self.pooled)
        return GateSamples(pooled, self.answers[index], self.full[index])


def standardized(
    gates: Sequence[Gate], samples: GateSamples, drop: Callable[[Tensor], Tensor]
) -> Tensor:
    """(N, E−1) predictions as ``Gate.standardized`` gives them."""
    return torch.stack(
        [gate.standardized(*samples.known(m), drop) for m, gate in enumerate(gates)], dim=1
    )


@torch.no_grad()
def regrets(gates: Sequence[Gate], samples: GateSamples) -> Tensor:
    """(N, E−1) predicted regrets."""
    predicted = [gate(*samples.known(m)) for m, gate in enumerate(gates)]
    return torch.stack(predicted, dim=1)
