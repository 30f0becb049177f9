"""Images that all fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ztw_rl.supervised.data.augmentation import crop_and_flip, draw_crops
from ztw_rl.supervised.data.datasets import DataSpec
from ztw_rl.supervised.data.source import WHOLE, Batch, Shard, shuffled


class MemorySource:
    """A small set: uint8 in memory, augmented on the device in whole batches.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        n_classes: Number of classes.
        spec: How training images are augmented.
        device: Where the images live.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, n_classes: int, spec: DataSpec, device: torch.device
    ) -> None:
        self.n_classes = n_classes
        self._images = images.to(device)
        self._labels = labels.to(device)
        self._spec = spec

    def __len__(self) -> int:
        """Number of images."""
        return len(self._labels)

    def epoch(
        self, batch_size: int, seed: int, shard: Shard = WHOLE, skip: int = 0
    ) -> Iterator[Batch]:
        """See ``Source``."""
        padding = self._spec.padding
        for own_seed, index in shuffled(len(self), batch_size, seed, skip):
            generator = torch.Generator().manual_seed(own_seed)
            # Drawn for all, so that an image's crop does not depend on the number of processes.
            offsets, mirrored = draw_crops(len(index), padding, self._spec.flip, generator)
            mine = slice(shard.rank, None, shard.world)
            chosen = index[mine].to(self._images.device)
            images = crop_and_flip(self._images[chosen], offsets[mine], mirrored[mine], padding)
            yield Batch(images, self._labels[chosen], len(index))

    def plain(self, batch_size: int) -> Iterator[Batch]:
        """See ``Source``."""
        for images, labels in zip(
            torch.split(self._images, batch_size),
            torch.split(self._labels, batch_size),
            strict=True,
        ):
            yield Batch(images, labels, len(labels))
