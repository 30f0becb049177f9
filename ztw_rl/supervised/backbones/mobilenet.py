"""MobileNet for small images.

Source: Howard et al., "MobileNets" (2017), table 1; for small images the first convolution and
the first widening keep the resolution, and the stride of 2 comes four times instead of five.
"""

from __future__ import annotations

from torch import nn

from ztw_rl.supervised.backbones.base import Backbone, Cut, GlobalAveragePool, initialize

STEM = 32
LAYERS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Output channels and stride of each depthwise-separable block."""


class SeparableBlock(nn.Sequential):
    """A depthwise 3×3 and a pointwise convolution, each normalised and rectified."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()


class MobileNet(Backbone):
    """MobileNet of thirteen blocks.

    Args:
        n_classes: Number of classes.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        before = [STEM, *(channels for channels, _ in LAYERS)]
        self.layers = nn.Sequential(
            *(
                SeparableBlock(b, channels, stride)
                for b, (channels, stride) in zip(before, LAYERS, strict=False)
            )
        )
        self.linear = nn.Linear(LAYERS[-1][0], n_classes)
        initialize(self)

    @property
    def final(self) -> nn.Linear:
        """See ``Backbone``."""
        return self.linear

    def cut(self) -> Cut:
        """See ``Backbone``: the first convolution, then the separable blocks."""
        blocks = [nn.Sequential(self.conv1, self.bn1, nn.ReLU()), *self.layers]
        head = nn.Sequential(GlobalAveragePool(), self.linear)
        return Cut(blocks, head, tuple(range(2, len(blocks) + 1)))
