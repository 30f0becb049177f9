"""Fitting of ICs, images per second: ours against the plain way.

Both fit the 27 internal classifiers of a ResNet-56 to 32×32 images at batch size 128 with Adam.
The plain way keeps the trunk in the graph and its parameters trainable, and prepares every image
apart with Pillow in a DataLoader. Pixels and weights are random: neither changes the speed. Run it
with ``python -m benchmarks.train_ics``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import harness
from ztw_rl.core.model import METHODS, EarlyExitModel
from ztw_rl.core.training import cross_entropy, freeze
from ztw_rl.supervised.backbones.registry import build_backbone, early_exit
from ztw_rl.supervised.config import PixelConfig
from ztw_rl.supervised.data.datasets import SPECS
from ztw_rl.supervised.data.source import MemorySource
from ztw_rl.supervised.ic_learners import ICLogits

PADDING = 4


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    n_batches: int = 3
    """Minibatches of a round."""
    batch_size: int = 128
    """Minibatch size."""
    rounds: int = 5
    """Rounds that count; one more warms up."""
    n_workers: int = 2
    """Worker processes of the plain way's DataLoader; 0 prepares images in between."""


class PlainImages(Dataset[Any]):
    """Images that Pillow pads, crops, mirrors and hands over one by one, normalised."""

    def __init__(self, pixels: np.ndarray[Any, np.dtype[np.uint8]], labels: Tensor) -> None:
        self._pixels = pixels
        self._labels = labels
        config = PixelConfig()
        self._mean = torch.tensor(config.mean).view(3, 1, 1)
        self._std = torch.tensor(config.std).view(3, 1, 1)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._labels)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """One image, (3, 32, 32), and its label."""
        from PIL import Image, ImageOps

        image = ImageOps.expand(Image.fromarray(self._pixels[i]), PADDING)
        left, top = torch.randint(2 * PADDING + 1, (2,)).tolist()
        image = image.crop((left, top, left + 32, top + 32))
        if torch.rand(()) < 0.5:
            image = ImageOps.mirror(image)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        return (x - self._mean) / self._std, self._labels[i]


def network() -> EarlyExitModel:
    """ResNet-56 with 27 cascading ICs."""
    backbone = build_backbone("resnet56", 10, 32)
    method = METHODS["cascade"]
    return early_exit(backbone, "resnet56", method, n_classes=10, pixels=PixelConfig())


def ours(source: MemorySource, batch_size: int) -> Callable[[], int]:
    """Fits ICs as ``train-ics`` does."""
    model = network()
    freeze(model)
    model.ics.requires_grad_(True)
    logits = ICLogits(model)
    optimizer = torch.optim.Adam(model.ics.parameters())

    def fit() -> int:
        for batch in source.epoch(batch_size, seed=0):
            log_probs = torch.log_softmax(logits(batch.images), dim=-1)
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(log_probs, batch.truth).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return len(source)

    return fit


def plain(images: PlainImages, batch_size: int, n_workers: int) -> Callable[[], int]:
    """Fits ICs with everything in one graph."""
    # Channels-last and the normalisation inside the model are ours; the plain way has neither.
    model = network().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model.eval()
    optimizer = torch.optim.Adam(model.ics.parameters())
    loader = DataLoader(
        images,
        batch_size,
        shuffle=True,
        num_workers=n_workers,
        persistent_workers=n_workers > 0,
    )

    def fit() -> int:
        for x, labels in loader:
            logits: list[Tensor] = []
            previous: Tensor | None = None
            for number, block in enumerate(model.blocks[1:], start=2):
                x = block(x)
                if number in model.attach:
                    previous = model.ics[len(logits)](x, previous)
                    logits.append(previous)
            log_probs = torch.log_softmax(torch.stack(logits, dim=1), dim=-1)
            model.zero_grad(set_to_none=True)
            cross_entropy(log_probs, labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return len(images)

    return fit


def main(settings: Settings) -> float:
    """Measure, print, and return the ratio."""
    machine = harness.machine()
    n = settings.n_batches * settings.batch_size
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(n, 32, 32, 3), dtype=np.uint8)
    labels = torch.from_numpy(rng.integers(10, size=n))
    stacked = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    source = MemorySource(stacked, labels, 10, SPECS["cifar10"], torch.device("cpu"))
    images = PlainImages(pixels, labels)
    rates = harness.interleave(
        {
            "ztw-rl": ours(source, settings.batch_size),
            "plain": plain(images, settings.batch_size, settings.n_workers),
        },
        settings.rounds,
    )
    return harness.report(
        "train_ics",
        rates,
        ours="ztw-rl",
        opponent="plain",
        target=2.0,
        machine_line=machine,
        unit="images",
        batch_size=settings.batch_size,
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
