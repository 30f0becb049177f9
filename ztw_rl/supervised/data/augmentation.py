"""Random crops and mirror images of whole batches, on the batch's own device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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
