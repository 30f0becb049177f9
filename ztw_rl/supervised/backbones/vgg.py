"""VGG-16 with batch normalisation for small images.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks" (2015), configuration D; the
fully connected layers are 512 wide, as usual for small images. Parameter names are torchvision's.
"""

from __future__ import annotations

from torch import nn

from ztw_rl.supervised.backbones.base import Backbone, Cut, initialize

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions; each stage ends with a max-pool."""
HIDDEN = 512


class VGG16(Backbone):
    """VGG-16-BN: thirteen convolutions, three fully connected layers.

    Args:
        n_classes: Number of classes.
        image_size: Side of the images, a multiple of 32.
    """

    def __init__(self, n_classes: int, image_size: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for stage in STAGES:
            for channels in stage:
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels)]
                layers.append(nn.ReLU())
                before = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        fully_connected: list[nn.Module] = []
        width = before * (image_size // 32) ** 2
        for _ in range(2):
            fully_connected += [nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(0.5)]
            width = HIDDEN
        self.classifier = nn.Sequential(*fully_connected, nn.Linear(width, n_classes))
        initialize(self)

    @property
    def final(self) -> nn.Linear:
        """See ``Backbone``."""
        layer = self.classifier[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def cut(self) -> Cut:
        """See ``Backbone``: the convolutions, then the first fully connected layer.

        The last of them makes fourteen places for an IC; its features count as an image of one
        cell. A max-pool belongs to the convolution before it.
        """
        blocks: list[nn.Module] = []
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                blocks.append(nn.Sequential())
            blocks[-1].append(layer)  # type: ignore[operator]
        hidden = self.classifier[:3]
        blocks.append(nn.Sequential(nn.Flatten(), hidden, nn.Unflatten(1, (HIDDEN, 1, 1))))
        head = nn.Sequential(nn.Flatten(), self.classifier[3:])
        return Cut(blocks, head, tuple(range(1, len(blocks) + 1)))
