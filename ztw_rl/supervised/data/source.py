"""Batches of uint8 images and labels, from the memory or from the disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ztw_rl.supervised.config import DataConfig
from ztw_rl.supervised.data.augmentation import crop_and_flip, draw_crops
from ztw_rl.supervised.data.datasets import SPECS, DataSpec, Split, list_images
from ztw_rl.supervised.data.listing import Listing, decode


class Batch(NamedTuple):
    """One process's share of a minibatch."""

    images: Tensor
    """(b, 3, H, W) uint8."""
    labels: Tensor
    """(b,) int64."""
    size: int
    """B, images of the whole minibatch, over all processes."""


class Shard(NamedTuple):
    """Which part of each minibatch a process takes: every ``world``-th image from ``rank``."""

    rank: int = 0
    world: int = 1


WHOLE = Shard()


class Source(Protocol):
    """Images of one split."""

    n_classes: int

    def __len__(self) -> int:
        """Number of images."""
        ...

    def epoch(
        self, batch_size: int, seed: int, shard: Shard = WHOLE, skip: int = 0
    ) -> Iterator[Batch]:
        """One shuffled, augmented pass; the same seed gives the same pass.

        Args:
            batch_size: Of the whole minibatch, over all processes.
            seed: Of order, crops and mirror images.
            shard: The part that this process sees.
            skip: Minibatches to leave out at the start.
        """
        ...

    def plain(self, batch_size: int) -> Iterator[Batch]:
        """One pass in order, without augmentation."""
        ...


def mix_seeds(*numbers: int) -> int:
    """One seed out of several numbers, such as a run's seed and its epoch."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])


def shuffled(n: int, batch_size: int, seed: int, skip: int) -> Iterator[tuple[int, Tensor]]:
    """A seed for each minibatch of a shuffled pass, and its (≤ batch_size,) indices."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for number, index in enumerate(torch.split(order, batch_size)):
        if number >= skip:
            yield mix_seeds(seed, number), index


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


def open_source(config: DataConfig, split: Split, device: torch.device) -> Source:
    """The images of one split, ready to train on.

    Args:
        config: Which set, and how it is split.
        split: Which part.
        device: Where small sets live, and where batches are wanted.

    Raises:
        UserError: Images are missing, unreadable, of another size, or wrongly labelled.
    """
    return from_listing(list_images(config, split), config, device)


def from_listing(listing: Listing, config: DataConfig, device: torch.device) -> Source:
    """See ``open_source``."""
    from ztw_rl.supervised.data.stream import StreamSource

    spec = SPECS[config.data]
    if spec.streams:
        return StreamSource(listing, spec.image_size, config.n_workers, device)
    images = decode(listing, spec.image_size, config.n_workers)
    return MemorySource(images, torch.from_numpy(listing.labels), listing.n_classes, spec, device)
