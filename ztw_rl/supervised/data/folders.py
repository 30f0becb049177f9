"""Image folders: one folder per class, and Tiny ImageNet's published layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ztw_rl.errors import UserError
from ztw_rl.supervised.data.listing import Listing

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
TEST_FOLDERS = ("test", "val")
ANNOTATIONS = "val_annotations.txt"


@dataclass(frozen=True)
class ImageFiles:
    """One file per image; see ``listing.Images``."""

    paths: list[Path]

    def read(self, i: int) -> Path:
        """See ``Images``."""
        return self.paths[i]

    def name(self, i: int) -> str:
        """See ``Images``."""
        return str(self.paths[i])


def split_folder(root: Path, split: str) -> Path | None:
    """Where a data set keeps its ``train`` or ``test`` images, or None if it does not.

    The test images of ImageNet and Tiny ImageNet are their ``val`` folder: their ``test`` folder
    has no classes.
    """
    names = ("train",) if split == "train" else TEST_FOLDERS
    for name in names:
        folder = root / name
        if (folder / ANNOTATIONS).is_file() or class_folders(folder):
            return folder
    return None


def class_folders(folder: Path) -> list[Path]:
    """Class folders; a lone ``images`` folder, which Tiny ImageNet's test split has, is none."""
    if not folder.is_dir():
        return []
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    return [] if [path.name for path in found] == ["images"] else found


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def read_folder(root: Path, split: str) -> Listing:
    """Images of a split; classes are numbered in the order of the training folders' names.

    Args:
        root: Holds ``train/<class>/…`` and ``test/<class>/…`` or ``val/<class>/…``, the images
            at any depth; or Tiny ImageNet's ``val/images`` with ``val/val_annotations.txt``.
        split: ``train`` or ``test``.

    Raises:
        UserError: The layout is another, a class has no image, or an annotation is wrong.
    """
    train, wanted = split_folder(root, "train"), split_folder(root, split)
    if train is None or wanted is None:
        missing = "train" if train is None else " or ".join(TEST_FOLDERS)
        raise UserError(f"{root} has no parquet files and no folder {missing} of class folders")
    classes = {path.name: number for number, path in enumerate(class_folders(train))}
    annotations = wanted / ANNOTATIONS
    if annotations.is_file():
        return _annotated(annotations, classes)
    paths: list[Path] = []
    labels: list[int] = []
    for folder in class_folders(wanted):
        if folder.name not in classes:
            raise UserError(f"{folder} is a class that {train} does not have")
        found = _images(folder)
        if not found:
            raise UserError(f"{folder} holds no image ({', '.join(SUFFIXES)})")
        paths += found
        labels += [classes[folder.name]] * len(found)
    return _listing(paths, labels, len(classes))


def _annotated(annotations: Path, classes: dict[str, int]) -> Listing:
    """Images whose classes a tab-separated file tells: name, class, and a box that is ignored."""
    paths, labels = [], []
    lines = annotations.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in classes:
            raise UserError(f"{annotations}: line {number} names no image and class of train")
        paths.append(annotations.parent / "images" / fields[0])
        labels.append(classes[fields[1]])
    return _listing(paths, labels, len(classes))


def _listing(paths: list[Path], labels: list[int], n_classes: int) -> Listing:
    return Listing(np.array(labels, dtype=np.int64), n_classes, ImageFiles(paths))
