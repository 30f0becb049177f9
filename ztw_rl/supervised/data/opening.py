"""From a data set's settings to its images."""

from __future__ import annotations

import torch

from ztw_rl.supervised.config import DataConfig
from ztw_rl.supervised.data.datasets import SPECS, Split, list_images
from ztw_rl.supervised.data.listing import Listing, decode
from ztw_rl.supervised.data.memory import MemorySource
from ztw_rl.supervised.data.source import Source
from ztw_rl.supervised.data.stream import StreamSource


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
    spec = SPECS[config.data]
    if spec.streams:
        return StreamSource(listing, spec.image_size, config.n_workers, device)
    images = decode(listing, spec.image_size, config.n_workers)
    return MemorySource(images, torch.from_numpy(listing.labels), listing.n_classes, spec, device)
