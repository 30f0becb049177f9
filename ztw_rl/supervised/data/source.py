"""Batches of uint8 images and labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor


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
