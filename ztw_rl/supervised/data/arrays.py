"""Sets that libraries hand out as arrays: scikit-learn's digits, torchvision's CIFAR."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ztw_rl.errors import UserError
from ztw_rl.supervised.data.listing import Listing, Pixels
from ztw_rl.supervised.torchvision_import import import_torchvision

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
    return _listing(pixels[part], found.target[part], 10, "digits")


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
    return _listing(found.data, np.array(found.targets), n_classes, f"CIFAR-{n_classes} {split}")


def _listing(pixels: Pixels, labels: npt.NDArray[np.int64], n_classes: int, name: str) -> Listing:
    return Listing(labels.astype(np.int64), n_classes, ImageArray(pixels, name))
