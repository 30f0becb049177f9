"""torchvision's ResNet-50 for large images.

Source: He et al., "Deep Residual Learning for Image Recognition" (2016), table 1.
"""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from ztw_rl.errors import UserError
from ztw_rl.supervised.backbones.base import Backbone, Cut, GlobalAveragePool
from ztw_rl.supervised.torchvision_import import import_torchvision


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
