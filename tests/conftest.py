"""Networks and games small enough to know what they must do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from ztw_rl.atari.emulators import Transition
from ztw_rl.core.heads import ICConfig, InternalClassifier
from ztw_rl.core.methods import METHODS
from ztw_rl.core.model import EarlyExitModel


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch on one thread, as small networks run fastest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class AsImage(nn.Module):
    """(B, D) features as (B, D, 1, 1), which ICs read."""

    def forward(self, x):
        return x[..., None, None]


def _make_model(
    *,
    n_ics: int,
    method: str = "ztw",
    n_classes: int = 3,
    n_blocks: int | None = None,
    attach: list[int] | None = None,
    ensemble_head: bool = False,
    mlp: bool = False,
    seed: int = 0,
) -> EarlyExitModel:
    """A random network on (B, 4, 6, 6), or on (B, 8) if ``mlp``, in eval mode."""
    torch.manual_seed(seed)
    n_blocks = n_ics + 1 if n_blocks is None else n_blocks
    attach = list(range(1, n_ics + 1)) if attach is None else attach
    if mlp:
        blocks = [
            nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), AsImage())
            for _ in range(n_blocks)
        ]
        size, channels, flat = (1, 1), 8, 8
    else:
        blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(n_blocks)]
        size, channels, flat = (6, 6), 4, 4 * 36
    parts = METHODS[method]
    ics = [
        InternalClassifier(
            ICConfig(
                channels,
                size,
                n_classes,
                3,
                cascade=parts.cascade and m > 0,
                stop_gradient=parts.stop_gradient,
                layer_norm=m % 2 == 0,
            )
        )
        for m in range(n_ics)
    ]
    ensemble = None
    if parts.ensemble is not None and n_ics + ensemble_head > 0:
        ensemble = parts.ensemble(n_ics + ensemble_head, n_classes)
        nn.init.normal_(ensemble.log_biases)
    model = EarlyExitModel(
        blocks, nn.Sequential(nn.Flatten(), nn.Linear(flat, n_classes)), ics, attach, ensemble
    )
    # Louder logits, so that confidences spread over the thresholds.
    with torch.no_grad():
        for ic in model.ics:
            ic.linear.weight.mul_(8)
    return model.eval()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., EarlyExitModel]:
    """Builds random early-exit networks: see ``_make_model``."""
    return _make_model
