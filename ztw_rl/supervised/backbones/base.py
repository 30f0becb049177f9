"""What every backbone offers: its usual parameter names, and a cut into blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Cut(NamedTuple):
    """A network as a chain; its modules are the network's own, not copies."""

    blocks: list[nn.Module]
    """In order; their composition is the network without its head."""
    head: nn.Module
    """From the last block's features to (B, C) logits."""
    attach: tuple[int, ...]
    """Where an IC can hang: how many blocks lie before it, one place per block of the paper."""


class Backbone(nn.Module, ABC):
    """An image classifier whose ``state_dict`` has the keys that published checkpoints have."""

    @abstractmethod
    def cut(self) -> Cut:
        """The network as blocks and head."""

    @property
    @abstractmethod
    def final(self) -> nn.Linear:
        """The final linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, 3, H, W), normalised.

        Returns:
            (B, C).
        """
        blocks, head, _ = self.cut()
        for block in blocks:
            x = block(x)
        logits: Tensor = head(x)
        return logits


class GlobalAveragePool(nn.Module):
    """(B, C, H, W) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Average over height and width."""
        return x.mean(dim=(2, 3))


class NormalizePixels(nn.Module):
    """uint8 pixels to (x / 255 − mean) / std, channels-last, on which convolutions are fastest.

    Mean and standard deviation belong to the settings, not to the weights: ``state_dict`` leaves
    them out.

    Args:
        mean: Per channel, of pixels in 0 … 1.
        std: Per channel.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        deviation = torch.tensor(std).view(1, -1, 1, 1)
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer(
            "shift", -torch.tensor(mean).view(1, -1, 1, 1) / deviation, persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, 3, H, W)."""
        pixels = x.to(torch.float32, memory_format=torch.channels_last)
        return torch.addcmul(self.shift, pixels, self.scale)


def initialize(module: nn.Module) -> None:
    """He initialisation of all convolutions (He et al., 2015); other layers keep torch's."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
