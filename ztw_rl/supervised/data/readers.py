"""Image sets as they are found: folders, parquet files, and arrays that libraries hand out.

Folders have one folder per class, or Tiny ImageNet's published layout; parquet files the columns of
Hugging Face's image sets; arrays are scikit-learn's digits and torchvision's CIFAR.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ztw_rl.errors import UserError
from ztw_rl.supervised.backbones.weights import import_torchvision
from ztw_rl.supervised.data.listing import Listing, Pixels

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
    # A folder with a dot in front is some program's, and no class.
    found = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
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
    return _of_files(paths, labels, len(classes))


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
    return _of_files(paths, labels, len(classes))


def _of_files(paths: list[Path], labels: list[int], n_classes: int) -> Listing:
    return Listing(np.array(labels, dtype=np.int64), n_classes, ImageFiles(paths))


IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label", "labels")


@dataclass(frozen=True)
class EncodedImages:
    """Images as a file would hold them; see ``listing.Images``."""

    contents: list[bytes | None]
    origins: list[tuple[Path, int]]
    """File and row of each."""

    def read(self, i: int) -> io.BytesIO:
        """See ``Images``."""
        return io.BytesIO(self.contents[i] or b"")

    def name(self, i: int) -> str:
        """See ``Images``."""
        path, row = self.origins[i]
        return f"{path}: row {row}"


def parquet_files(folder: Path, split: str) -> list[Path]:
    """Files of one split, such as ``train-0.parquet``, in order of their names."""
    return sorted(folder.glob(f"{split}*.parquet"))


def read_parquet(files: list[Path], n_classes: int) -> Listing:
    """Images as encoded bytes, and labels.

    Args:
        files: Of one split.
        n_classes: Number of classes.

    Raises:
        UserError: pyarrow is not installed, or a file is damaged or lacks a column.
    """
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UserError(
            "pyarrow is needed to read parquet; install it with: pip install 'ztw-rl[supervised]'"
        ) from None
    images: list[bytes | None] = []
    labels: list[int] = []
    origins: list[tuple[Path, int]] = []
    for path in files:
        try:
            names = parquet.read_schema(path).names
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is no readable parquet file ({reason})") from None
        image, label = (_column(path, names, c) for c in (IMAGE_COLUMNS, LABEL_COLUMNS))
        try:
            table = parquet.read_table(path, columns=[image, label])
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is no readable parquet file ({reason})") from None
        rows: list[Any] = table.column(image).to_pylist()
        images += [row.get("bytes") if isinstance(row, dict) else row for row in rows]
        numbers = table.column(label).to_pylist()
        for row, number in enumerate(numbers):
            if not isinstance(number, int):
                raise UserError(f"{path}: row {row} has the label {number!r}, expected a number")
        labels += numbers
        origins += [(path, row) for row in range(len(rows))]

    return Listing(np.array(labels, dtype=np.int64), n_classes, EncodedImages(images, origins))


def _column(path: Path, names: list[str], wanted: tuple[str, ...]) -> str:
    found = [name for name in wanted if name in names]
    if not found:
        raise UserError(
            f"{path} has no column {' or '.join(wanted)}; its columns are {', '.join(names)}"
        )
    return found[0]


N_DIGITS_TEST = 297
"""Of 1,797 digits, the last ones, so that 1,500 remain."""
DIGIT_SCALE = 4


@dataclass(frozen=True)
class ImageArray:
    """Decoded images; see ``listing.Images``."""

    pixels: Pixels
    """(N, H, W, 3)."""
    source: str
    """What they are called."""

    def read(self, i: int) -> Pixels:
        """See ``Images``."""
        found: Pixels = self.pixels[i]
        return found

    def name(self, i: int) -> str:
        """See ``Images``."""
        return f"{self.source}: image {i}"


def read_digits(split: str) -> Listing:
    """Scikit-learn's hand-written digits, 8×8, enlarged to 32×32 and repeated over the channels.

    Args:
        split: ``train`` or ``test``.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise UserError(
            "scikit-learn is needed for digits; install it with: pip install 'ztw-rl[supervised]'"
        ) from None
    found = load_digits()
    # 17 gray levels, 0 … 16.
    gray = np.minimum(found.images * 16, 255).astype(np.uint8)
    large = gray.repeat(DIGIT_SCALE, axis=1).repeat(DIGIT_SCALE, axis=2)
    pixels = np.repeat(large[..., np.newaxis], 3, axis=3)
    part = slice(-N_DIGITS_TEST, None) if split == "test" else slice(-N_DIGITS_TEST)
    return _of_arrays(pixels[part], found.target[part], 10, "digits")


def download_cifar(root: Path, n_classes: int, split: str) -> Listing:
    """CIFAR-10 or CIFAR-100 in torchvision's layout, downloaded if it is not there.

    Args:
        root: Folder for the download.
        n_classes: 10 or 100.
        split: ``train`` or ``test``.

    Raises:
        UserError: torchvision is not installed, or the download failed.
    """
    import_torchvision()
    from torchvision import datasets

    kind = datasets.CIFAR10 if n_classes == 10 else datasets.CIFAR100
    try:
        found = kind(str(root), train=split == "train", download=True)
    # A failed download raises URLError, a damaged one RuntimeError, a bad folder OSError.
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot download CIFAR-{n_classes} to {root} ({reason}); name a folder with "
            "parquet files or images with --data-path"
        ) from None
    return _of_arrays(found.data, np.array(found.targets), n_classes, f"CIFAR-{n_classes} {split}")


def _of_arrays(pixels: Pixels, labels: npt.NDArray[np.int64], n_classes: int, name: str) -> Listing:
    return Listing(labels.astype(np.int64), n_classes, ImageArray(pixels, name))
