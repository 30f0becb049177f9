"""ResNet-56 for small images, with parameter-free shortcuts.

Source: He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2: 6n + 2
layers, n = 9 blocks in each of three stages of 16, 32 and 64 channels; shortcuts of option A.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ztw_rl.supervised.backbones.base import Backbone, Cut, GlobalAveragePool, initialize

CHANNELS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut that subsamples and pads with zero channels."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.padding:
            x = F.pad(x, (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(y + x)


class CifarResNet(Backbone):
    """ResNet of 6n + 2 layers.

    Args:
        n_classes: Number of classes.
        n_blocks: n, blocks per stage; 9 make ResNet-56.
    """

    def __init__(self, n_classes: int, n_blocks: int = 9) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        stages = []
        before = CHANNELS[0]
        for channels in CHANNELS:
            blocks = [BasicBlock(before, channels, stride=1 if before == channels else 2)]
            blocks += [BasicBlock(channels, channels, stride=1) for _ in range(n_blocks - 1)]
            stages.append(nn.Sequential(*blocks))
            before = channels
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(CHANNELS[-1], n_classes)
        initialize(self)

    @property
    def final(self) -> nn.Linear:
        """See ``Backbone``."""
        return self.linear

    def cut(self) -> Cut:
        """See ``Backbone``: the first convolution, then the residual blocks."""
        residual = [*self.layer1, *self.layer2, *self.layer3]
        blocks = [nn.Sequential(self.conv1, self.bn1, nn.ReLU()), *residual]
        head = nn.Sequential(GlobalAveragePool(), self.linear)
        return Cut(blocks, head, tuple(range(2, len(blocks) + 1)))
