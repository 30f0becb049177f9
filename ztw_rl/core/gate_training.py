"""Fits gates to the regrets that were measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ztw_rl.core.gates import Gate, GateSamples, regrets, standardized
from ztw_rl.core.training import are_finite, minibatches
from ztw_rl.errors import UserError

N_EPOCHS = 8
BATCH_SIZE = 512
PEAK_RATE = 4e-3
WEIGHT_DECAY = 0.05
DROPOUT = 0.2
HELD_OUT = 0.1
"""Share of the samples, the last ones, that gates are judged on and never see."""


@torch.enable_grad()
def fit_gates(
    gates: Sequence[Gate],
    samples: GateSamples,
    target: Tensor,
    generator: torch.Generator,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> tuple[float, ...]:
    """Least squares on the standardised regrets: AdamW, one cycle of the learning rate.

    Args:
        gates: E−1, changed in place.
        samples: What they see of N samples.
        target: (N, E−1) regrets.
        generator: Source of the minibatches' order, and of the inputs that are left out.
        on_epoch: Called after each of ``N_EPOCHS`` passes with its number and its mean loss.

    Returns:
        Per gate, the share of the regret's variance that it explains on the held-out samples, or
        on all of fewer than ten; NaN where the regret does not vary there.

    Raises:
        UserError: The weights are no longer finite numbers.
    """
    n_fit = max(1, len(samples) - int(HELD_OUT * len(samples)))
    for m, gate in enumerate(gates):
        gate.requires_grad_(True)
        gate.standardize(samples.pooled[m][:n_fit], target[:n_fit, m])
    mean = torch.stack([gate.regret_mean for gate in gates])
    deviation = torch.stack([gate.regret_deviation for gate in gates])
    wanted = (target - mean) / deviation
    parameters = [parameter for gate in gates for parameter in gate.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    n_batches = -(-n_fit // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_RATE, total_steps=n_batches * N_EPOCHS + 1
    )

    def drop(x: Tensor) -> Tensor:
        kept = torch.rand(x.shape, generator=generator).to(x.device) >= DROPOUT
        return x * kept / (1 - DROPOUT)

    for epoch in range(N_EPOCHS):
        losses = []
        for index in minibatches(n_fit, BATCH_SIZE, generator):
            rows = index.to(target.device)
            predicted = standardized(gates, samples.rows(rows), drop)
            loss = ((predicted - wanted[rows]) ** 2).sum(dim=1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        on_epoch(epoch + 1, torch.stack(losses).mean().item())
    if not are_finite(parameters):
        raise UserError(
            "the gates' weights are no finite numbers, since what the exits say is none; train "
            "the exits again"
        )
    for gate in gates:
        gate.requires_grad_(False)
    held_out = slice(n_fit, None) if n_fit < len(samples) else slice(None)
    errors = (regrets(gates, samples.rows(held_out)) - target[held_out]).pow(2).mean(dim=0)
    variance = target[held_out].var(dim=0, correction=0)
    return tuple(torch.where(variance > 0, 1 - errors / variance, torch.nan).tolist())
