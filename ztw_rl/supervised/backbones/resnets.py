"""Residual networks: ResNet-56 and WideResNet-32-4 for small images, ResNet-50 for large ones.

Sources: He et al., "Deep Residual Learning for Image Recognition" (2016), sections 4.1 and 4.2;
Zagoruyko and Komodakis, "Wide Residual Networks" (2016).
"""

from __future__ import annotations

import warnings

from torch import Tensor, nn
from torch.nn import functional as F

from ztw_rl.errors import UserError
from ztw_rl.supervised.backbones.base import Backbone, Cut, GlobalAveragePool, initialize
from ztw_rl.supervised.backbones.weights import import_torchvision

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
    """ResNet of 6n + 2 layers, with parameter-free shortcuts (option A).

    n blocks in each of three stages, of 16, 32 and 64 channels.

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
    """WideResNet-32-4 of three stages.

    Depth 32 counts as in the early-exit literature: three stages of five blocks with two
    convolutions each, the first layer and the last.

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


class ResNet50(Backbone):
    """ResNet-50; ``state_dict`` has torchvision's own keys.

    Args:
        n_classes: Number of classes.

    Raises:
        UserError: torchvision is not installed.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        import_torchvision()
        from torchvision.models import resnet50

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = resnet50(weights=None, num_classes=n_classes)
        for name, child in network.named_children():
            self.add_module(name, child)
        self.fc: nn.Linear = network.fc

    @property
    def final(self) -> nn.Linear:
        """See ``Backbone``."""
        return self.fc

    def cut(self) -> Cut:
        """See ``Backbone``: the first layers, then the sixteen bottleneck blocks."""
        parts = dict(self.named_children())
        stem = nn.Sequential(*(parts[name] for name in ("conv1", "bn1", "relu", "maxpool")))
        stages = [parts[f"layer{number}"] for number in (1, 2, 3, 4)]
        bottlenecks = [block for stage in stages for block in stage.children()]
        blocks = [stem, *bottlenecks]
        head = nn.Sequential(GlobalAveragePool(), self.fc)
        return Cut(blocks, head, tuple(range(2, len(blocks) + 1)))


def pretrained() -> dict[str, Tensor]:
    """The weights of torchvision's ResNet-50, trained on ImageNet (76.1 %); downloads them once.

    Raises:
        UserError: torchvision is not installed, or the download failed.
    """
    import_torchvision()
    from torchvision.models import ResNet50_Weights

    try:
        weights = ResNet50_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise UserError(
            f"cannot download torchvision's ResNet-50 ({error}); name a file with --backbone"
        ) from None
    return dict(weights)
