"""The network that exits hang on, as a module of its own."""

from __future__ import annotations

from torch import Tensor, nn

from ztw_rl.core.model import EarlyExitModel


class Backbone(nn.Module):
    """A model without its ICs, for exporters: they take modules, not methods.

    Args:
        model: In eval mode.
    """

    def __init__(self, model: EarlyExitModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) logits."""
        return self.model.backbone(x)
