"""Batches of uint8 images and labels, from the memory or the disk, cropped and mirrored."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ztw_rl.errors import UserError
from ztw_rl.supervised.data.listing import Listing


@dataclass(frozen=True)
class DataSpec:
    """What sets one data set apart."""

    n_classes: int | None
    """None: as many as there are class folders."""
    image_size: int
    padding: int = 4
    """Black border from which a training image is cropped, in pixels."""
    flip: bool = True
    """Whether a training image may be mirrored."""
    streams: bool = False
    """Too large for the memory: decoded anew in each epoch, cropped at random scale."""


class Batch(NamedTuple):
    """One process's share of a minibatch."""

    images: Tensor
    """(b, 3, H, W) uint8, or (b, …) of whatever else the network takes."""
    labels: Tensor | None
    """(b,) int64; None where nobody knows them."""
    size: int
    """B, images of the whole minibatch, over all processes."""

    @property
    def truth(self) -> Tensor:
        """(b,) int64, the labels, which somebody must know.

        Raises:
            ValueError: Nobody does.
        """
        if self.labels is None:
            raise ValueError("this batch has no labels")
        return self.labels


class Shard(NamedTuple):
    """Which part of each minibatch a process takes: every ``world``-th image from ``rank``."""

    rank: int = 0
    world: int = 1


WHOLE = Shard()


class Source(Protocol):
    """Images of one split."""

    n_classes: int

    @property
    def labelled(self) -> bool:
        """Whether the labels are known, of all images or of none."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def n_batches(self, batch_size: int) -> int:
        """Minibatches of one pass.

        Args:
            batch_size: See ``epoch``.
        """
        ...

    def epoch(
        self, batch_size: int, seed: int, shard: Shard = WHOLE, skip: int = 0
    ) -> Iterator[Batch]:
        """One shuffled, augmented pass; the same seed gives the same pass.

        Args:
            batch_size: Of the whole minibatch, over all processes, where the source can choose it.
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


def draw_crops(
    n: int, padding: int, flip: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Where to crop, and what to mirror.

    Args:
        n: Number of images.
        padding: Width of the border, in pixels.
        flip: Whether images may be mirrored; each then is with probability ½.
        generator: On the CPU.

    Returns:
        (n, 2) int64 offsets of top and left, 0 … 2·padding; (n,) bool.
    """
    offsets = torch.randint(2 * padding + 1, (n, 2), generator=generator)
    mirrored = torch.rand(n, generator=generator) < 0.5
    return offsets, mirrored & flip


def crop_and_flip(images: Tensor, offsets: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """Add a black border, cut the original size out of it, and mirror some: in one gather.

    Args:
        images: (B, C, H, W).
        offsets: (B, 2) top and left, 0 … 2·padding.
        mirrored: (B,) bool.
        padding: Width of the border, in pixels.

    Returns:
        (B, C, H, W).
    """
    n, channels, height, width = images.shape
    device = images.device
    padded = F.pad(images, (padding,) * 4)
    top, left = offsets.to(device).unbind(1)
    rows = top.unsqueeze(1) + torch.arange(height, device=device)
    columns = left.unsqueeze(1) + torch.arange(width, device=device)
    columns = torch.where(mirrored.to(device).unsqueeze(1), columns.flip(1), columns)
    return padded[
        torch.arange(n, device=device).view(n, 1, 1, 1),
        torch.arange(channels, device=device).view(1, channels, 1, 1),
        rows.view(n, 1, height, 1),
        columns.view(n, 1, 1, width),
    ]


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
        self.labelled = True
        self._images = images.to(device)
        self._labels = labels.to(device)
        self._spec = spec

    def __len__(self) -> int:
        """Number of images."""
        return len(self._labels)

    def n_batches(self, batch_size: int) -> int:
        """See ``Source``."""
        return -(-len(self) // batch_size)

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


SCALE = (0.08, 1.0)
"""Share of the image's area that a training crop covers."""
ASPECT = (3 / 4, 4 / 3)
"""Width over height of a training crop."""
CROPPED_SHARE = 0.875
"""A test image's shorter side is scaled to image_size / 0.875 (256 for 224) before the crop."""


def random_crop(image: Any, size: int, rng: random.Random) -> Any:
    """A crop of random area, shape and place, scaled to a square and perhaps mirrored.

    Source: Szegedy et al., "Going Deeper with Convolutions" (2015), section 6.

    Args:
        image: ``PIL.Image``.
        size: Side of the result in pixels.
        rng: Source of chance.
    """
    from PIL import Image

    for _ in range(10):
        area = image.width * image.height * rng.uniform(*SCALE)
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= image.width and 0 < height <= image.height:
            left = rng.randint(0, image.width - width)
            top = rng.randint(0, image.height - height)
            break
    else:
        width = height = min(image.width, image.height)
        left, top = (image.width - width) // 2, (image.height - height) // 2
    box = (left, top, left + width, top + height)
    cropped = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    mirror = Image.Transpose.FLIP_LEFT_RIGHT
    return cropped.transpose(mirror) if rng.random() < 0.5 else cropped


def center_crop(image: Any, size: int) -> Any:
    """The middle of an image, scaled.

    Args:
        image: ``PIL.Image``.
        size: Side of the result in pixels.
    """
    from PIL import Image

    side = min(image.width, image.height) * CROPPED_SHARE
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


class _Images(Dataset[Any]):
    """Decodes (index, seed) pairs; without a seed, no chance is involved."""

    def __init__(self, listing: Listing, image_size: int) -> None:
        self._listing = listing
        self._image_size = image_size

    def __getitem__(self, key: tuple[int, int | None]) -> tuple[Tensor, int] | UserError:
        i, seed = key
        try:
            image = self._listing.image(i)
        except UserError as error:
            # An exception would come out of the worker as a page of traceback.
            return error
        if seed is None:
            image = center_crop(image, self._image_size)
        else:
            image = random_crop(image, self._image_size, random.Random(seed))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return pixels, int(self._listing.labels[i])


def _stack(
    image_size: int, samples: list[tuple[Tensor, int] | UserError]
) -> tuple[Tensor, Tensor] | UserError:
    # A process may have no share of the last minibatch.
    images = [torch.empty(0, 3, image_size, image_size, dtype=torch.uint8)]
    labels = []
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
        image, label = sample
        images.append(image.unsqueeze(0))
        labels.append(label)
    return torch.cat(images), torch.tensor(labels, dtype=torch.int64)


class StreamSource:
    """Images decoded by worker processes, cropped at random scale, and moved to the device.

    Args:
        listing: The images.
        image_size: Side of a batch's images in pixels.
        n_workers: Decoding processes; 0 decodes in this one.
        device: Where batches are wanted.
    """

    def __init__(
        self, listing: Listing, image_size: int, n_workers: int, device: torch.device
    ) -> None:
        self.n_classes = listing.n_classes
        self.labelled = True
        self._dataset = _Images(listing, image_size)
        self._image_size = image_size
        self._n = len(listing)
        self._n_workers = n_workers
        self._device = device

    def __len__(self) -> int:
        """Number of images."""
        return self._n

    def n_batches(self, batch_size: int) -> int:
        """See ``Source``."""
        return -(-self._n // batch_size)

    def epoch(
        self, batch_size: int, seed: int, shard: Shard = WHOLE, skip: int = 0
    ) -> Iterator[Batch]:
        """See ``Source``."""
        keys, sizes = [], []
        for own_seed, index in shuffled(self._n, batch_size, seed, skip):
            pairs = [(i, mix_seeds(own_seed, i)) for i in index.tolist()]
            keys.append(pairs[shard.rank :: shard.world])
            sizes.append(len(pairs))
        yield from self._load(keys, sizes)

    def plain(self, batch_size: int) -> Iterator[Batch]:
        """See ``Source``."""
        parts = torch.split(torch.arange(self._n), batch_size)
        keys = [[(i, None) for i in part.tolist()] for part in parts]
        yield from self._load(keys, [len(part) for part in keys])

    def _load(self, keys: list[Any], sizes: list[int]) -> Iterator[Batch]:
        loader = DataLoader(
            self._dataset,
            batch_sampler=keys,
            num_workers=self._n_workers,
            collate_fn=functools.partial(_stack, self._image_size),
            pin_memory=self._device.type == "cuda",
        )
        for stacked, size in zip(loader, sizes, strict=True):
            if isinstance(stacked, UserError):
                raise stacked
            images, labels = (t.to(self._device, non_blocking=True) for t in stacked)
            yield Batch(images, labels, size)
