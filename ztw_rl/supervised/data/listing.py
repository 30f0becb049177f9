"""Labelled images that are decoded one at a time, wherever they come from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ztw_rl.errors import UserError

Pixels = npt.NDArray[np.uint8]


class Images(Protocol):
    """Where the images are. It is sent to other processes, so it is made of plain values."""

    def read(self, i: int) -> Any:
        """The i-th image as (H, W, 3) uint8 pixels, or as something PIL opens: a path or a file."""
        ...

    def name(self, i: int) -> str:
        """What to call the i-th image in an error."""
        ...


@dataclass(frozen=True)
class Chosen:
    """Some of the images, in another order."""

    images: Images
    index: npt.NDArray[np.int64]
    """(N,) their places among ``images``."""

    def read(self, i: int) -> Any:
        """See ``Images``."""
        return self.images.read(int(self.index[i]))

    def name(self, i: int) -> str:
        """See ``Images``."""
        return self.images.name(int(self.index[i]))


@dataclass(frozen=True)
class Listing:
    """Labels, and what is needed to decode each image."""

    labels: npt.NDArray[np.int64]
    """(N,)."""
    n_classes: int
    images: Images
    """N."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def checked(self) -> Listing:
        """Itself, if there are images and every label is a class.

        Raises:
            UserError: A label is out of range; it names the image.
        """
        if not len(self.labels):
            raise UserError("there are no images; name another --data-path")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= self.n_classes))
        if len(wrong):
            i = int(wrong[0])
            raise UserError(
                f"{self.images.name(i)} has the label {self.labels[i]}, "
                f"expected 0 to {self.n_classes - 1}; is --data right?"
            )
        return self

    def subset(self, index: npt.NDArray[np.int64]) -> Listing:
        """The images at ``index``, in its order."""
        return Listing(self.labels[index], self.n_classes, Chosen(self.images, index))

    def image(self, i: int) -> Any:
        """The i-th image as an RGB ``PIL.Image``.

        Raises:
            UserError: It cannot be decoded; Pillow is not installed.
        """
        try:
            from PIL import Image
        except ModuleNotFoundError:
            raise UserError(
                "Pillow is needed to read images; install it with: pip install 'ztw-rl[supervised]'"
            ) from None
        try:
            source = self.images.read(i)
            if isinstance(source, np.ndarray):
                return Image.fromarray(source)
            with Image.open(source) as opened:
                return opened.convert("RGB")
        # Pillow raises whatever its decoders do: OSError, SyntaxError, ValueError, and more.
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{self.images.name(i)} is no readable image ({reason})") from None


def decode(listing: Listing, image_size: int, n_threads: int) -> Tensor:
    """All images of a small set at once.

    Args:
        listing: The images.
        image_size: Their side in pixels.
        n_threads: Decoders side by side.

    Returns:
        (N, 3, H, W) uint8.

    Raises:
        UserError: An image is unreadable or of another size; it names the image.
    """
    pixels = torch.empty(len(listing), 3, image_size, image_size, dtype=torch.uint8)

    def put(i: int) -> None:
        image = listing.image(i)
        if image.size != (image_size, image_size):
            raise UserError(
                f"{listing.images.name(i)} is {image.width}x{image.height} pixels, "
                f"expected {image_size}x{image_size}"
            )
        pixels[i] = torch.from_numpy(np.array(image)).permute(2, 0, 1)

    with ThreadPoolExecutor(max(1, n_threads)) as pool:
        try:
            for _ in pool.map(put, range(len(listing))):
                pass
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise
    return pixels
