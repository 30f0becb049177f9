"""Uniformly random play, the floor that returns are counted from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ztw_rl.core.model import EarlyExitModel


class UniformLogits(nn.Module):
    """Equal logits, whatever the input is.

    Args:
        n_actions: Size of the action space.
    """

    logits: Tensor

    def __init__(self, n_actions: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(n_actions))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_actions) zeros.

        Args:
            x: (B, …), anything.
        """
        return self.logits.expand(len(x), -1)


def uniform_policy(n_actions: int) -> EarlyExitModel:
    """A policy without a network; sampled, its actions are uniformly random.

    Args:
        n_actions: Size of the action space.
    """
    return EarlyExitModel([], UniformLogits(n_actions), ics=[], attach=[]).eval()
