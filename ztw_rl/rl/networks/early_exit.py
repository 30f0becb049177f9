"""Policies with internal classifiers (ICs) at some of their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ztw_rl.core.cost import count_macs
from ztw_rl.core.gates import Gate, make_gates
from ztw_rl.core.heads import InternalClassifier
from ztw_rl.core.ics import Convolution, build_ics
from ztw_rl.core.model import METHODS, EarlyExitModel, Method
from ztw_rl.errors import UserError
from ztw_rl.rl.networks.config import SMALLEST, NetworkConfig, PixelHead
from ztw_rl.rl.networks.layers import RELU_GAIN, orthogonal_, policy_blocks


@dataclass(frozen=True)
class PixelICConfig:
    """Shape of an IC that reads the pixels themselves."""

    in_channels: int
    in_size: tuple[int, int]
    """Height and width of the picture."""
    n_classes: int
    channels: tuple[int, int, int] = (4, 16, 16)
    """Of the three convolutions."""
    kernels: tuple[int, int, int] = (8, 4, 3)
    """Side of each one's window, in its own input's pixels."""
    strides: tuple[int, int, int] = (4, 2, 1)

    @classmethod
    def of(
        cls, head: PixelHead, in_channels: int, in_size: tuple[int, int], n_classes: int
    ) -> PixelICConfig:
        """The shape that a name stands for."""
        if head == "windows":
            return cls(in_channels, in_size, n_classes)
        return cls(in_channels, in_size, n_classes, channels=(8, 16, 16), kernels=(4, 4, 3))

    @property
    def conv_size(self) -> tuple[int, int]:
        """Height and width after the convolutions."""
        height, width = self.in_size
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        return height, width


class PixelClassifier(nn.Module):
    """See ``PixelICConfig``. It is the first exit, so it never cascades.

    Args:
        config: Shape.
    """

    def __init__(self, config: PixelICConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = config.in_channels
        shapes = zip(config.channels, config.kernels, config.strides, strict=True)
        for channels, kernel, stride in shapes:
            layers += [nn.Conv2d(before, channels, kernel, stride), nn.ReLU()]
            before = channels
        self.convs = nn.Sequential(*layers)
        orthogonal_(self.convs, RELU_GAIN)
        height, width = config.conv_size
        self.n_pooled = before * height * width
        self.linear = nn.Linear(self.n_pooled, config.n_classes)

    def pooled(self, pixels: Tensor) -> Tensor:
        """(B, n_pooled) features from (B, in_channels, *in_size) floats."""
        features: Tensor = self.convs(pixels)
        return features.flatten(1)

    def answer(self, pooled: Tensor, previous: Tensor | None = None) -> Tensor:
        """(B, n_classes) logits; ``previous`` is not used, since no exit lies before it."""
        logits: Tensor = self.linear(pooled)
        return logits

    def forward(self, pixels: Tensor, previous: Tensor | None = None) -> Tensor:
        """(B, n_classes) logits of this IC; see ``pooled`` and ``answer``."""
        return self.answer(self.pooled(pixels), previous)


def policy_alone(n_actions: int, config: NetworkConfig) -> EarlyExitModel:
    """A policy without any IC, its parameters random.

    Args:
        n_actions: Size of the action space.
        config: Its layers.

    Returns:
        The model; one on images is channels-last.
    """
    blocks, head = policy_blocks(config, n_actions)
    return _laid_out(EarlyExitModel(blocks, head, ics=[], attach=[]), config)


def early_exit_policy(
    n_actions: int,
    config: NetworkConfig,
    exits: Sequence[str],
    method: Method = METHODS["ztw"],
    gates: Sequence[str] = (),
    pixel_head: PixelHead = "windows",
) -> EarlyExitModel:
    """A policy with internal classifiers, its parameters still random.

    ICs on maps keep the number of channels and convolve with stride 4 where that leaves 2×2; one on
    the pixels themselves is a ``PixelClassifier``. Cascaded logits are layer-normalised; the
    policy's own head stays outside the ensemble.

    Args:
        n_actions: Size of the action space.
        config: The policy's layers.
        exits: Places of the ICs, in order of depth.
        method: Which parts the model has.
        gates: Names of its sets of gates.
        pixel_head: The IC at the input, if there is one on images.

    Returns:
        The model; one on images is channels-last.

    Raises:
        UserError: A place is unknown, repeated or out of order, or the images are too small.
    """
    config.check_exits(tuple(exits))
    blocks, head = policy_blocks(config, n_actions)
    attach = [config.blocks.index(name) + 1 for name in exits]
    shapes = _shapes(blocks, attach, config.input_shape)
    ics: list[nn.Module] = []
    if exits[0] == "input" and len(config.input_shape) == 3:
        channels, height, width = config.input_shape
        if min(height, width) < SMALLEST:
            raise UserError(
                f"an exit at the input needs images of {SMALLEST}x{SMALLEST} at least, not "
                f"{height}x{width}; leave out input"
            )
        shape = PixelICConfig.of(pixel_head, channels, (height, width), n_actions)
        ics.append(PixelClassifier(shape))
    ics += build_ics(
        shapes[len(ics) :], n_actions, method, convolution=_convolution, follows=bool(ics)
    )
    ensemble = method.ensemble(len(ics), n_actions) if method.ensemble else None
    made = {name: _gates(blocks, head, ics, n_actions, config.input_shape) for name in gates}
    return _laid_out(EarlyExitModel(blocks, head, ics, attach, ensemble, made), config)


def _gates(
    blocks: Sequence[nn.Module],
    head: nn.Module,
    ics: Sequence[nn.Module],
    n_actions: int,
    input_shape: tuple[int, ...],
) -> list[Gate]:
    """One per IC."""
    network = nn.Sequential(*blocks, head)
    macs = count_macs(lambda: network(torch.zeros(1, *input_shape)))
    kept = [ic for ic in ics if isinstance(ic, InternalClassifier | PixelClassifier)]
    return make_gates([ic.n_pooled for ic in kept], n_actions, macs)


def kept_ics(model: EarlyExitModel) -> list[InternalClassifier | PixelClassifier]:
    """The model's ICs, of the kinds that ``early_exit_policy`` makes."""
    return [ic for ic in model.ics if isinstance(ic, InternalClassifier | PixelClassifier)]


def _laid_out(model: EarlyExitModel, config: NetworkConfig) -> EarlyExitModel:
    if len(config.input_shape) < 3:
        return model
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _convolution(channels: int, height: int, width: int) -> Convolution:
    """See ``core.ics.ConvolutionRule``: the largest stride that leaves 2×2."""
    for stride in (4, 2):
        if (min(height, width) - 3) // stride + 1 >= 2:
            return Convolution(channels, stride, 0)
    return Convolution(channels, 1, 1)


@torch.no_grad()
def _shapes(
    blocks: Sequence[nn.Module], attach: Sequence[int], input_shape: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """Of one sample's features at each place."""
    x = torch.zeros(1, *input_shape)
    shapes: list[tuple[int, ...]] = []
    for block in blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    return [shapes[place - 1] for place in attach]
