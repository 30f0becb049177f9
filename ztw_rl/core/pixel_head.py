"""An internal classifier (IC) that reads the network's input, before any of its layers.

A plain IC's single 3×3 convolution, strided, would skip pixels and then pool small objects away.
This one cuts the picture into tiles, so that every pixel is read once, and keeps places apart:

    normalise → conv 8×8, stride 8 → ReLU → conv 3×3, stride 2 → ReLU → SDN pool → linear

The picture is brought to mean 0 and deviation 1 first. A game's background is one bright plain,
which all weights would have to learn away before the few pixels that matter can count: on Pong's
frames, at the learning rates of distillation, the same network learns nothing without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from ztw_rl.core.heads import SDNPool


@dataclass(frozen=True)
class PixelICConfig:
    """Shape of one such classifier."""

    in_channels: int
    in_size: tuple[int, int]
    """Height and width of the picture."""
    n_classes: int
    tile: int = 8
    """Side of a tile, in pixels."""
    tile_channels: int = 16
    """Of the first convolution."""
    channels: int = 32
    """Of the second convolution."""

    @property
    def n_tiles(self) -> tuple[int, int]:
        """Tiles along height and width; what is left over at the far edges is not read."""
        return self.in_size[0] // self.tile, self.in_size[1] // self.tile

    @property
    def conv_size(self) -> tuple[int, int]:
        """Height and width after both convolutions."""
        height, width = ((n - 3) // 2 + 1 for n in self.n_tiles)
        return height, width


class PixelClassifier(nn.Module):
    """See the module. It is the first exit, so it never cascades.

    Args:
        config: Shape.
    """

    def __init__(self, config: PixelICConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.GroupNorm(1, config.in_channels)
        self.tiles = nn.Conv2d(
            config.in_channels, config.tile_channels, kernel_size=config.tile, stride=config.tile
        )
        self.conv = nn.Conv2d(config.tile_channels, config.channels, kernel_size=3, stride=2)
        self.pool = SDNPool()
        height, width = SDNPool.output_size(*config.conv_size)
        self.linear = nn.Linear(config.channels * height * width, config.n_classes)

    def patches(self, pixels: Tensor) -> Tensor:
        """What the classifier reads: the picture itself, as no pixel is read twice.

        Args:
            pixels: (B, in_channels, *in_size).

        Returns:
            The same.
        """
        return pixels

    def from_patches(self, patches: Tensor, previous: Tensor | None = None) -> Tensor:
        """Logits from what ``patches`` returned; see ``InternalClassifier.from_patches``."""
        return self(patches, previous)  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor, previous: Tensor | None = None) -> Tensor:
        """Logits of this IC.

        Args:
            pixels: (B, in_channels, *in_size), floats.
            previous: Not used: no exit lies before it.

        Returns:
            (B, n_classes).
        """
        tiles = F.relu(self.tiles(self.norm(pixels)))
        logits: Tensor = self.linear(self.pool(F.relu(self.conv(tiles))).flatten(1))
        return logits
