"""The data sets by name, and their splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ztw_rl.errors import UserError
from ztw_rl.supervised.config import DataConfig, DataName
from ztw_rl.supervised.data.listing import Listing, decode
from ztw_rl.supervised.data.readers import (
    class_folders,
    download_cifar,
    parquet_files,
    read_digits,
    read_folder,
    read_parquet,
    split_folder,
)
from ztw_rl.supervised.data.source import DataSpec, MemorySource, Source, StreamSource

Split = Literal["train", "held_out", "test"]

DOWNLOADS = Path("data")
TRANSPORT = (0, 1, 7, 8, 9)
"""CIFAR-10's classes that CIFAR-2 calls transport: airplane, automobile, horse, ship, truck."""

NAMES: dict[DataName, tuple[str, ...]] = {
    "digits": tuple("0123456789"),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar2": ("animals", "transport"),
}
"""Of classes that the data set fixes."""


SPECS: dict[DataName, DataSpec] = {
    "digits": DataSpec(10, 32, padding=2, flip=False),
    "cifar10": DataSpec(10, 32),
    "cifar100": DataSpec(100, 32),
    "cifar2": DataSpec(2, 32),
    "tinyimagenet": DataSpec(None, 64, padding=8),
    "imagenet": DataSpec(None, 224, streams=True),
    "oct2017": DataSpec(None, 224, streams=True),
    "folder": DataSpec(None, 224, streams=True),
}


def list_images(config: DataConfig, split: Split) -> Listing:
    """The images of one split, with ``held_out``, ``n_train`` and ``n_test`` applied.

    Args:
        config: Which set, and how it is split.
        split: ``train`` and ``held_out`` share the training images between them.

    Raises:
        UserError: The images are missing, or a label is out of range.
    """
    listing = _read(config, "test" if split == "test" else "train").checked()
    rng = np.random.default_rng(config.split_seed)
    order = rng.permutation(len(listing))
    if split == "test":
        return listing if config.n_test is None else listing.subset(order[: config.n_test])
    n = len(listing) if config.n_train is None else min(config.n_train, len(listing))
    n_held_out = round(config.held_out * n)
    if split == "held_out" and not n_held_out:
        raise UserError("no training images are held out; choose --held-out above 0")
    if split == "train" and n_held_out == n:
        raise UserError(
            f"--held-out {config.held_out:g} leaves none of {n} images to train on; choose less"
        )
    part = order[:n_held_out] if split == "held_out" else order[n_held_out:n]
    return listing.subset(np.sort(part))


def class_names(config: DataConfig) -> tuple[str, ...] | None:
    """What the classes are called, in the order of their numbers, or None if the data don't tell.

    Args:
        config: Which set.
    """
    if config.data in NAMES:
        return NAMES[config.data]
    root = Path(config.data_path) if config.data_path is not None else DOWNLOADS
    train = split_folder(root, "train")
    if train is None or parquet_files(root, "train"):
        return None
    return tuple(path.name for path in class_folders(train))


def _read(config: DataConfig, split: str) -> Listing:
    name, n_classes = config.data, SPECS[config.data].n_classes
    if name == "digits":
        if config.data_path is not None:
            raise UserError(
                f"digits come with scikit-learn and not from {config.data_path}; leave out "
                "--data-path, or say what it holds, such as --data cifar10"
            )
        return read_digits(split)
    if name == "cifar2":
        full = _read(replace(config, data="cifar10"), split).checked()
        labels = np.isin(full.labels, TRANSPORT).astype(np.int64)
        return replace(full, labels=labels, n_classes=2)
    if name == "folder" and config.data_path is None:
        raise UserError(
            "--data folder needs --data-path: a folder that holds train/ and test/ or val/, each "
            "with a folder per class"
        )
    if config.data_path is not None and not Path(config.data_path).is_dir():
        raise UserError(f"--data-path {config.data_path} is no folder")
    root = Path(config.data_path) if config.data_path is not None else DOWNLOADS
    files = parquet_files(root, split)
    if files:
        return read_parquet(files, n_classes or _count_classes(root))
    if n_classes is None or split_folder(root, split):
        listing = read_folder(root, split)
        return listing if n_classes is None else replace(listing, n_classes=n_classes)
    if config.data_path is not None and any(root.glob("*.parquet")):
        raise UserError(f"{root} holds no {split}*.parquet")
    return download_cifar(root, n_classes, split)


def _count_classes(root: Path) -> int:
    """Classes of a parquet set that does not say how many it has: those of its training split."""
    return int(read_parquet(parquet_files(root, "train"), 0).labels.max()) + 1


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
        size = config.image_size or spec.image_size
        return StreamSource(listing, size, config.n_workers, device)
    images = decode(listing, spec.image_size, config.n_workers)
    return MemorySource(images, torch.from_numpy(listing.labels), listing.n_classes, spec, device)
