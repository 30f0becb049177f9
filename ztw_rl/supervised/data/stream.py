"""A large set: decoded from the disk in each epoch, by worker processes."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ztw_rl.errors import UserError
from ztw_rl.supervised.data.listing import Listing
from ztw_rl.supervised.data.source import WHOLE, Batch, Shard, mix_seeds, shuffled

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
        self._dataset = _Images(listing, image_size)
        self._image_size = image_size
        self._n = len(listing)
        self._n_workers = n_workers
        self._device = device

    def __len__(self) -> int:
        """Number of images."""
        return self._n

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
