"""WideResNet-32-4 for small images.

Source: Zagoruyko and Komodakis, "Wide Residual Networks" (2016). Depth 32 counts as in the early
exit literature: three stages of five blocks, two convolutions each, and the first and last layer.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ztw_rl.supervised.backbones.base import Backbone, Cut, GlobalAveragePool, initialize

STEM = 16
N_BLOCKS = 5
WIDEN_FACTOR = 4
DROPOUT = 0.3


class WideBlock(nn.Module):
    """Pre-activation residual block: normalise, rectify, convolve, twice, with dropout between."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(DROPOUT)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        same = in_channels == channels and stride == 1
        self.shortcut = nn.Sequential(
            *([] if same else [nn.Conv2d(in_channels, channels, 1, stride, bias=False)])
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, H / stride, W / stride)."""
        y: Tensor = self.dropout(self.conv1(F.relu(self.bn1(x))))
        y = self.conv2(F.relu(self.bn2(y)))
        shortcut: Tensor = self.shortcut(x)
        return y + shortcut


class WideResNet(Backbone):
    """WideResNet of three stages.

    Args:
        n_classes: Number of classes.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 3, padding=1, bias=False)
        stages = []
        before = STEM
        for number in range(3):
            channels = STEM * 2**number * WIDEN_FACTOR
            blocks = [WideBlock(before, channels, stride=2 if number else 1)]
            blocks += [WideBlock(channels, channels, stride=1) for _ in range(N_BLOCKS - 1)]
            stages.append(nn.Sequential(*blocks))
            before = channels
        self.layer1, self.layer2, self.layer3 = stages
        self.bn1 = nn.BatchNorm2d(before)
        self.linear = nn.Linear(before, n_classes)
        initialize(self)

    @property
    def final(self) -> nn.Linear:
        """See ``Backbone``."""
        return self.linear

    def cut(self) -> Cut:
        """See ``Backbone``: the first convolution, then the residual blocks."""
        blocks = [self.conv1, *self.layer1, *self.layer2, *self.layer3]
        head = nn.Sequential(self.bn1, nn.ReLU(), GlobalAveragePool(), self.linear)
        return Cut(blocks, head, tuple(range(2, len(blocks) + 1)))
