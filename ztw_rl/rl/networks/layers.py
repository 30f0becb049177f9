"""The parts of policies' networks.

Sources: Mnih et al., "Human-level control through deep reinforcement learning" (2015) for
NatureCNN; Espeholt et al., "IMPALA" (2018), figure 3, for the residual network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ztw_rl.rl.networks.config import Activation, NetworkConfig

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


class ScalePixels(nn.Module):
    """uint8 pixels to floats in 0 … 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale (B, C, H, W); the result is channels-last, which convolutions are fastest on."""
        # Bytes are transposed rather than floats: four times less to move. Floats that need no
        # conversion are copied, since they are the caller's.
        pixels = x.contiguous(memory_format=torch.channels_last).to(torch.float32, copy=True)
        return pixels.div_(255)


class Normalize(nn.Module):
    """(x − mean) / sqrt(variance + ε), clipped, as Stable-Baselines3's ``VecNormalize`` does.

    The statistics are kept with the weights.

    Args:
        n_inputs: Length D of the vectors.
    """

    mean: Tensor
    std: Tensor
    clip: Tensor

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_inputs))
        self.register_buffer("std", torch.ones(n_inputs))
        self.register_buffer("clip", torch.tensor(math.inf))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, D)."""
        return torch.minimum(torch.maximum((x - self.mean) / self.std, -self.clip), self.clip)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), both 3×3.

    Args:
        channels: Of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same."""
        y: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return x + y


class ImpalaStage(nn.Sequential):
    """A convolution, a max-pool that halves the sides, and two residual blocks.

    Args:
        in_channels: Of its input.
        channels: Of its output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.MaxPool2d(3, stride=2, padding=1),
            ResidualBlock(channels),
            ResidualBlock(channels),
        )


def column_major(linear: nn.Linear) -> nn.Linear:
    """The same layer with its weight stored column by column.

    On the CPU this more than halves the time of a wide layer on a handful of samples.
    """
    linear.weight.data = linear.weight.data.t().contiguous().t()
    return linear


def nature_convolutions(channels: int, widths: tuple[int, ...]) -> list[nn.Conv2d]:
    """NatureCNN's three convolutions.

    Args:
        channels: Of the images.
        widths: Channels of each.
    """
    first, second, third = widths
    return [
        nn.Conv2d(channels, first, kernel_size=8, stride=4),
        nn.Conv2d(first, second, kernel_size=4, stride=2),
        nn.Conv2d(second, third, kernel_size=3, stride=1),
    ]


def impala_stages(channels: int, widths: tuple[int, ...]) -> list[ImpalaStage]:
    """The stages of an IMPALA-CNN.

    Args:
        channels: Of the images.
        widths: Channels of each.
    """
    before = (channels, *widths[:-1])
    return [ImpalaStage(*pair) for pair in zip(before, widths, strict=True)]


@torch.no_grad()
def n_features(parts: list[nn.Module], input_shape: tuple[int, ...]) -> int:
    """How many numbers the parts of a trunk leave of one image (C, H, W)."""
    x = torch.zeros(1, *input_shape)
    for part in parts:
        x = part(x)
    return x.numel()


def _activation(name: Activation) -> nn.Module:
    return nn.ReLU() if name == "relu" else nn.Tanh()


def policy_blocks(config: NetworkConfig, n_actions: int) -> tuple[list[nn.Module], nn.Module]:
    """A policy's network, its parameters random.

    Args:
        config: Its layers.
        n_actions: Size of the action space.

    Returns:
        One block for each of ``config.blocks``, and the head.
    """
    shape = config.input_shape
    images = len(shape) == 3
    blocks: list[nn.Module] = [ScalePixels() if images else nn.Identity()]
    if config.normalizes:
        blocks = [Normalize(shape[0])]
    width = math.prod(shape)
    if config.trunk != "mlp":
        *widths, features = config.widths
        parts: list[nn.Module]
        if config.trunk == "nature":
            convolutions = nature_convolutions(shape[0], tuple(widths))
            parts = [nn.Sequential(conv, nn.ReLU()) for conv in convolutions]
            before: list[nn.Module] = []
        else:
            parts = [*impala_stages(shape[0], tuple(widths))]
            before = [nn.ReLU()]
        linear = column_major(nn.Linear(n_features(parts, shape), features))
        blocks += [*parts, nn.Sequential(*before, nn.Flatten(), linear, nn.ReLU())]
        width = features
    for number, wide in enumerate(config.hidden):
        layer = [nn.Linear(width, wide), _activation(config.activation)]
        flatten = [nn.Flatten()] if number == 0 and config.trunk == "mlp" and images else []
        blocks.append(nn.Sequential(*flatten, *layer))
        width = wide
    return blocks, nn.Linear(width, n_actions)
