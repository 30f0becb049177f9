"""PPO's loss of one minibatch.

Source: Schulman et al., "Proximal Policy Optimization Algorithms" (2017); the estimate of the
divergence: Schulman, "Approximating KL Divergence" (2020). Terms as in Stable-Baselines3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class PPOLoss(NamedTuple):
    """() tensors. Only ``total`` is to be minimised."""

    total: Tensor
    policy: Tensor
    """The clipped surrogate, its sign turned."""
    value: Tensor
    """Squared error of the value net."""
    entropy: Tensor
    """Mean entropy of the policy, its sign turned, in nats."""
    approx_kl: Tensor
    """Estimate of KL(old policy ‖ new policy), in nats."""
    clip_fraction: Tensor
    """Share of samples whose probability ratio is beyond the clip range."""


def ppo_loss(
    *,
    values: Tensor,
    log_prob: Tensor,
    entropy: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    returns: Tensor,
    clip_range: Tensor,
    ent_coef: Tensor | float,
    vf_coef: Tensor | float,
) -> PPOLoss:
    """Clipped surrogate, value error and entropy bonus of B samples.

    Advantages are normalised within the minibatch, unless it is a single sample.

    Args:
        values: (B,) the value net's answers.
        log_prob: (B,) of the actions taken, under the present policy.
        entropy: (B,) of the present policy.
        old_log_prob: (B,) of the same actions under the policy that took them.
        advantages: (B,) generalised advantage estimates.
        returns: (B,) targets of the values.
        clip_range: () of the probability ratio, around 1.
        ent_coef: () weight of the entropy bonus.
        vf_coef: () weight of the value error.
    """
    if len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    policy = -torch.min(advantages * ratio, advantages * clipped).mean()
    value = F.mse_loss(values, returns)
    negative_entropy = -entropy.mean()
    with torch.no_grad():
        approx_kl = (ratio - 1 - log_ratio).mean()
        clip_fraction = ((ratio - 1).abs() > clip_range).float().mean()
    return PPOLoss(
        total=policy + ent_coef * negative_entropy + vf_coef * value,
        policy=policy,
        value=value,
        entropy=negative_entropy,
        approx_kl=approx_kl,
        clip_fraction=clip_fraction,
    )
