"""Parquet files in the column layout of Hugging Face's image sets."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ztw_rl.errors import UserError
from ztw_rl.supervised.data.listing import Listing

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
