"""Initial weights for networks that learn from pixels.

From PyTorch's own smaller ones the first updates can silence a layer for good.

Source: Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural
networks" (2014); the gains are those of Stable-Baselines3.
"""

from __future__ import annotations

import math

import torch
from torch import nn

RELU_GAIN = math.sqrt(2)
"""Makes up for what a ReLU takes."""


@torch.no_grad()
def orthogonal_(module: nn.Module, gain: float) -> None:
    """Give all convolutions and linear layers orthogonal weights and zero biases, in place.

    Args:
        module: Of any memory layout, which stays.
        gain: Length of a layer's rows, or of its columns where they are fewer.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            # Drawn apart, since torch cannot initialise weights of channels-last layout.
            layer.weight.copy_(
                nn.init.orthogonal_(layer.weight.new_empty(layer.weight.shape), gain)
            )
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
