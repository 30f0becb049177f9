"""Internal classifiers (ICs): what features say, and a linear layer that sees the exit before.

Source: Kaya et al., "Shallow-Deep Networks" (2019) for the pooling; Wołczyk et al., "Zero Time
Waste" (2021) for the cascade connection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POOLED_SIZE = 4


def _reaches(size: int, bins: int) -> list[tuple[int, int]]:
    """Where adaptive pooling's bins begin and end: floor(i·size/bins), ceil((i+1)·size/bins)."""
    return [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]


@dataclass(frozen=True)
class Bins:
    """Plain pooling that adaptive pooling along one axis amounts to."""

    kernel: int
    stride: int
    cells: tuple[int, ...] | None = None
    """Cells in another order first, some of them twice: bins that overlap here and not there are
    laid out side by side."""


def plain_bins(size: int, bins: int = POOLED_SIZE) -> Bins | None:
    """Plain pooling instead of adaptive pooling, along one axis.

    Args:
        size: Cells along the axis.
        bins: Cells along that axis after pooling.

    Returns:
        None if the bins differ in width.
    """
    reaches = _reaches(size, bins)
    widths = {end - start for start, end in reaches}
    strides = {b - a for (a, _), (b, _) in pairwise(reaches)} or {1}
    if len(widths) != 1:
        return None
    width = widths.pop()
    if len(strides) == 1:
        return Bins(width, strides.pop())
    return Bins(width, width, tuple(i for a, b in reaches for i in range(a, b)))


def pool_bins(x: Tensor, bins: int, axis: int, reduce: Callable[..., Tensor]) -> Tensor:
    """Adaptive pooling along one axis, bin by bin.

    Args:
        x: (B, C, H, W).
        bins: Cells along the axis after pooling.
        axis: −2 or −1.
        reduce: ``torch.mean`` or ``torch.amax``.
    """
    reaches = _reaches(x.shape[axis], bins)
    cells = [reduce(x.narrow(axis, a, b - a), dim=axis, keepdim=True) for a, b in reaches]
    return torch.cat(cells, dim=axis)


class SDNPool(nn.Module):
    """γ·avg_pool(x) + (1−γ)·max_pool(x) down to 4×4, with a learnable γ.

    An axis of 4 cells or fewer is left as it is: there, average and maximum agree with the cell
    itself, and repeating cells to fill 4×4 would only add redundant weights to the next layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor(0.5))

    @staticmethod
    def output_size(height: int, width: int) -> tuple[int, int]:
        """Height and width after pooling."""
        return min(height, POOLED_SIZE), min(width, POOLED_SIZE)

    def forward(self, x: Tensor) -> Tensor:
        """Pool.

        Args:
            x: (B, C, H, W).

        Returns:
            (B, C, min(H, 4), min(W, 4)).
        """
        height, width = x.shape[-2:]
        size = self.output_size(height, width)
        if size == (height, width):
            return x
        rows, columns = plain_bins(height, size[0]), plain_bins(width, size[1])
        if rows is None or columns is None:
            # As adaptive pooling would, but in operations that every exporter knows.
            average = pool_bins(pool_bins(x, size[0], -2, torch.mean), size[1], -1, torch.mean)
            maximum = pool_bins(pool_bins(x, size[0], -2, torch.amax), size[1], -1, torch.amax)
        else:
            for axis, order in ((-2, rows.cells), (-1, columns.cells)):
                if order is not None:
                    x = x.index_select(axis, torch.tensor(order, device=x.device))
            kernel, stride = (rows.kernel, columns.kernel), (rows.stride, columns.stride)
            average, maximum = F.avg_pool2d(x, kernel, stride), F.max_pool2d(x, kernel, stride)
        return torch.lerp(maximum, average, self.gamma.to(x.dtype))


@dataclass(frozen=True)
class Connection:
    """What an IC answers with: the classes, and what it sees of its predecessor's logits."""

    n_classes: int
    cascade: bool = True
    """Whether its linear layer also sees the predecessor's logits."""
    stop_gradient: bool = True
    """Whether the predecessor is shielded from this IC's loss."""
    layer_norm: bool = False
    """Whether the predecessor's logits are layer-normalised first."""


class InternalClassifier(nn.Module, ABC):
    """A linear layer on pooled features, which may also see the predecessor's logits.

    A subclass makes its own layers and then calls ``connect``.
    """

    connection: Connection

    def connect(self, n_features: int, connection: Connection) -> None:
        """Make the linear layer.

        Args:
            n_features: Of the pooled features.
            connection: The first IC has no predecessor, so its ``cascade`` must be False.
        """
        self.connection = connection
        n_classes = connection.n_classes
        normalises = connection.cascade and connection.layer_norm
        self.norm = nn.LayerNorm(n_classes) if normalises else nn.Identity()
        self.n_pooled = n_features
        self.linear = nn.Linear(n_features + n_classes * connection.cascade, n_classes)

    @abstractmethod
    def keep(self, features: Tensor) -> Tensor:
        """What training on a frozen trunk keeps of the features, to read it again and again.

        Args:
            features: (B, …) as ``forward`` takes them.

        Returns:
            (B, …).
        """

    @abstractmethod
    def summary(self, kept: Tensor) -> Tensor:
        """(B, n_pooled) pooled features, from what ``keep`` returned."""

    def pooled(self, features: Tensor) -> Tensor:
        """(B, n_pooled) pooled features, from (B, …) what the trunk gives here."""
        return self.summary(self.keep(features))

    def from_kept(self, kept: Tensor, previous: Tensor | None = None) -> Tensor:
        """Logits of this IC, as ``forward`` gives them up to rounding.

        Args:
            kept: What ``keep`` returned for the features.
            previous: As in ``forward``.

        Returns:
            (B, n_classes).
        """
        return self.answer(self.summary(kept), previous)

    def forward(self, features: Tensor, previous: Tensor | None = None) -> Tensor:
        """Logits of this IC.

        Args:
            features: (B, …), what the trunk gives here.
            previous: (B, n_classes), the logits of the IC before it; needed if it cascades.

        Returns:
            (B, n_classes).
        """
        return self.answer(self.pooled(features), previous)

    def answer(self, pooled: Tensor, previous: Tensor | None) -> Tensor:
        """(B, n_classes) logits from (B, n_pooled) pooled features; see ``forward``."""
        if self.connection.cascade:
            if previous is None:
                raise ValueError("a cascading IC needs its predecessor's logits")
            if self.connection.stop_gradient:
                previous = previous.detach()
            pooled = torch.cat([pooled, self.norm(previous.to(pooled.dtype))], dim=1)
        logits: Tensor = self.linear(pooled)
        return logits


@dataclass(frozen=True)
class MapConfig:
    """Shape of the convolution of an IC on maps."""

    in_channels: int
    in_size: tuple[int, int]
    """Height and width of the features it reads."""
    out_channels: int
    stride: int = 1
    padding: int = 1
    channels_last: bool = False
    """Whether the features are (H, W, C), as those of a Swin transformer."""

    @property
    def conv_size(self) -> tuple[int, int]:
        """Height and width after the 3×3 convolution."""
        height, width = ((s + 2 * self.padding - 3) // self.stride + 1 for s in self.in_size)
        return height, width


class MapClassifier(InternalClassifier):
    """An IC on maps (C, H, W): conv 3×3 → ReLU → SDN pool → linear.

    Args:
        config: Shape.
        connection: See ``InternalClassifier``.
    """

    def __init__(self, config: MapConfig, connection: Connection) -> None:
        super().__init__()
        self.config = config
        self.conv = nn.Conv2d(
            config.in_channels,
            config.out_channels,
            kernel_size=3,
            stride=config.stride,
            padding=config.padding,
        )
        self.pool = SDNPool()
        height, width = SDNPool.output_size(*config.conv_size)
        self.connect(config.out_channels * height * width, connection)

    @property
    def _gaps(self) -> bool:
        """Whether the convolution reads no cell more than once."""
        return self.config.stride >= self.conv.kernel_size[0]

    def keep(self, features: Tensor) -> Tensor:
        """See ``InternalClassifier``: where a stride leaves gaps, only what the convolution reads.

        Args:
            features: (B, C, H, W), or (B, H, W, C) if the configuration says so.

        Returns:
            (B, places, 9·C), each row ordered by row, column and channel; or the features.
        """
        return self._patches(self._channels_first(features)) if self._gaps else features

    def summary(self, kept: Tensor) -> Tensor:
        """See ``InternalClassifier``."""
        if not self._gaps:
            return self._pool(self.conv(self._channels_first(kept)))
        weight = self.conv.weight.permute(0, 2, 3, 1).flatten(1)
        rows = F.linear(kept, weight, self.conv.bias)
        convolved = rows.view(len(rows), *self.config.conv_size, -1).permute(0, 3, 1, 2)
        return self._pool(convolved)

    def pooled(self, features: Tensor) -> Tensor:
        """See ``InternalClassifier``: copies nothing."""
        return self._pool(self.conv(self._channels_first(features)))

    def _channels_first(self, features: Tensor) -> Tensor:
        return features.permute(0, 3, 1, 2) if self.config.channels_last else features

    def _patches(self, features: Tensor) -> Tensor:
        stride, padding = self.config.stride, self.config.padding
        cells = F.pad(features, [padding] * 4).permute(0, 2, 3, 1)
        windows = cells.unfold(1, 3, stride).unfold(2, 3, stride)
        return windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(1, 2)

    def _pool(self, convolved: Tensor) -> Tensor:
        """From the convolution's output, (B, out_channels, *conv_size)."""
        pooled: Tensor = self.pool(F.relu(convolved))
        return pooled.flatten(1)


class VectorClassifier(InternalClassifier):
    """An IC on vectors (D,): a linear layer.

    Args:
        n_features: D.
        connection: See ``InternalClassifier``.
    """

    def __init__(self, n_features: int, connection: Connection) -> None:
        super().__init__()
        self.connect(n_features, connection)

    def keep(self, features: Tensor) -> Tensor:
        """See ``InternalClassifier``: the (B, D) features."""
        return features

    def summary(self, kept: Tensor) -> Tensor:
        """See ``InternalClassifier``: the features."""
        return kept


Tokens = Literal["mean", "class"]
"""What stands for a sequence of tokens: their mean, or the first."""


class TokenClassifier(InternalClassifier):
    """An IC on tokens (T, D): their mean or the class token, then a linear layer.

    Args:
        n_features: D.
        tokens: Which of the two.
        connection: See ``InternalClassifier``.
    """

    def __init__(self, n_features: int, tokens: Tokens, connection: Connection) -> None:
        super().__init__()
        self.tokens = tokens
        self.connect(n_features, connection)

    def keep(self, features: Tensor) -> Tensor:
        """See ``InternalClassifier``: (B, D) of (B, T, D)."""
        return features.mean(dim=1) if self.tokens == "mean" else features[:, 0]

    def summary(self, kept: Tensor) -> Tensor:
        """See ``InternalClassifier``: the same."""
        return kept
