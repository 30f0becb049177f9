"""Internal classifiers (ICs) for the features that a network has at its places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ztw_rl.core.heads import (
    Connection,
    InternalClassifier,
    MapClassifier,
    MapConfig,
    TokenClassifier,
    Tokens,
    VectorClassifier,
)
from ztw_rl.core.model import Method
from ztw_rl.errors import UserError


class Convolution(NamedTuple):
    """The 3×3 convolution of an IC on maps."""

    channels: int
    """Of its output."""
    stride: int
    padding: int


ConvolutionRule = Callable[[int, int, int], Convolution]
"""From channels, height and width of the features to the convolution that reads them."""


def quarter(channels: int, height: int, width: int) -> Convolution:
    """A quarter of the channels, but 16 at least; stride 2 where both sides exceed 8.

    Cheap beside any network; see ``ConvolutionRule``.
    """
    return Convolution(max(16, channels // 4), 2 if min(height, width) > 8 else 1, 1)


def build_ics(
    shapes: Sequence[tuple[int, ...]],
    n_classes: int,
    method: Method,
    *,
    convolution: ConvolutionRule = quarter,
    layer_norm: bool = True,
    tokens: Tokens = "mean",
    follows: bool = False,
) -> list[InternalClassifier]:
    """One IC for each place, its parameters random.

    Features of three dimensions are maps: (C, H, W), or (H, W, C) where the first two agree and
    the last two do not. Two dimensions are tokens (T, D), one is a vector.

    Example:
        >>> build_ics([(64, 56, 56), (197, 768), (512,)], 10, METHODS["ztw"])

    Args:
        shapes: Of one sample's features at each place.
        n_classes: C.
        method: Whether they see their predecessors.
        convolution: Of ICs on maps.
        layer_norm: Whether the predecessor's logits are layer-normalised.
        tokens: What stands for a sequence.
        follows: Whether another exit comes before the first of these.

    Raises:
        UserError: Features of four dimensions or more, or maps that are too small.
    """
    ics: list[InternalClassifier] = []
    for number, shape in enumerate(shapes):
        connection = Connection(
            n_classes,
            cascade=method.cascade and (follows or number > 0),
            stop_gradient=method.stop_gradient,
            layer_norm=layer_norm,
        )
        if len(shape) == 1:
            ics.append(VectorClassifier(shape[0], connection))
        elif len(shape) == 2:
            ics.append(TokenClassifier(shape[1], tokens, connection))
        elif len(shape) == 3:
            ics.append(MapClassifier(_map_config(shape, convolution), connection))
        else:
            raise UserError(
                f"an exit can read vectors, tokens (T, D) or maps (C, H, W), not {shape}; "
                "cut elsewhere"
            )
    return ics


def _map_config(shape: tuple[int, ...], convolution: ConvolutionRule) -> MapConfig:
    first, second, third = shape
    channels_last = first == second != third
    channels, height, width = (third, first, second) if channels_last else shape
    out_channels, stride, padding = convolution(channels, height, width)
    config = MapConfig(channels, (height, width), out_channels, stride, padding, channels_last)
    if min(config.conv_size) < 1:
        raise UserError(f"maps of {height}x{width} are too small for an exit; cut earlier")
    return config
