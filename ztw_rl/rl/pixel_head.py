"""An internal classifier (IC) that reads the network's input, before any of its layers.

A plain IC's single 3×3 convolution, strided, would skip pixels and then pool small objects away.
This one is a NatureCNN in small, which keeps places apart and goes without the wide hidden layer:

    conv 8×8, stride 4 → ReLU → conv 4×4, stride 2 → ReLU → conv 3×3 → ReLU → linear

As in a NatureCNN that learns from pixels, the convolutions' weights begin orthogonal and their
biases at 0.

Source of the layers: Mnih et al., "Human-level control through deep reinforcement learning" (2015).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ztw_rl.rl.orthogonal import RELU_GAIN, orthogonal_

KERNELS = (8, 4, 3)
"""Side of each convolution's window, in its own input's pixels."""
STRIDES = (4, 2, 1)


@dataclass(frozen=True)
class PixelICConfig:
    """Shape of one such classifier."""

    in_channels: int
    in_size: tuple[int, int]
    """Height and width of the picture."""
    n_classes: int
    channels: tuple[int, int, int] = (4, 16, 16)
    """Of the three convolutions."""

    @property
    def conv_size(self) -> tuple[int, int]:
        """Height and width after the convolutions."""
        height, width = self.in_size
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        return height, width


class PixelClassifier(nn.Module):
    """See the module. It is the first exit, so it never cascades.

    Args:
        config: Shape.
    """

    def __init__(self, config: PixelICConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = config.in_channels
        for channels, kernel, stride in zip(config.channels, KERNELS, STRIDES, strict=True):
            layers += [nn.Conv2d(before, channels, kernel, stride), nn.ReLU()]
            before = channels
        self.convs = nn.Sequential(*layers)
        orthogonal_(self.convs, RELU_GAIN)
        height, width = config.conv_size
        self.linear = nn.Linear(before * height * width, config.n_classes)

    def forward(self, pixels: Tensor, previous: Tensor | None = None) -> Tensor:
        """Logits of this IC.

        Args:
            pixels: (B, in_channels, *in_size), floats.
            previous: Not used: no exit lies before it.

        Returns:
            (B, n_classes).
        """
        logits: Tensor = self.linear(self.convs(pixels).flatten(1))
        return logits
