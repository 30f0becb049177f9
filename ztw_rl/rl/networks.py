"""NatureCNN as blocks, and the internal classifiers that fit it.

Source: Mnih et al., "Human-level control through deep reinforcement learning" (2015).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ztw_rl.core.heads import Connection, MapClassifier, MapConfig
from ztw_rl.core.model import METHODS, EarlyExitModel, Method
from ztw_rl.errors import UserError

RELU_GAIN = math.sqrt(2)
"""Makes up for what a ReLU takes."""


@torch.no_grad()
def orthogonal_(module: nn.Module, gain: float) -> None:
    """Give all convolutions and linear layers orthogonal weights and zero biases, in place.

    Args:
        module: Of any memory layout, which stays.
        gain: Length of a layer's rows, or of its columns where they are fewer.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            # Drawn apart, since torch cannot initialise weights of channels-last layout.
            layer.weight.copy_(
                nn.init.orthogonal_(layer.weight.new_empty(layer.weight.shape), gain)
            )
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


KERNELS = (8, 4, 3)
"""Side of each convolution's window, in its own input's pixels."""
STRIDES = (4, 2, 1)


@dataclass(frozen=True)
class PixelICConfig:
    """Shape of one such classifier."""

    in_channels: int
    in_size: tuple[int, int]
    """Height and width of the picture."""
    n_classes: int
    channels: tuple[int, int, int] = (4, 16, 16)
    """Of the three convolutions."""

    @property
    def conv_size(self) -> tuple[int, int]:
        """Height and width after the convolutions."""
        height, width = self.in_size
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        return height, width


class PixelClassifier(nn.Module):
    """See the module. It is the first exit, so it never cascades.

    Args:
        config: Shape.
    """

    def __init__(self, config: PixelICConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = config.in_channels
        for channels, kernel, stride in zip(config.channels, KERNELS, STRIDES, strict=True):
            layers += [nn.Conv2d(before, channels, kernel, stride), nn.ReLU()]
            before = channels
        self.convs = nn.Sequential(*layers)
        orthogonal_(self.convs, RELU_GAIN)
        height, width = config.conv_size
        self.linear = nn.Linear(before * height * width, config.n_classes)

    def forward(self, pixels: Tensor, previous: Tensor | None = None) -> Tensor:
        """Logits of this IC.

        Args:
            pixels: (B, in_channels, *in_size), floats.
            previous: Not used: no exit lies before it.

        Returns:
            (B, n_classes).
        """
        logits: Tensor = self.linear(self.convs(pixels).flatten(1))
        return logits


SCREEN_SIZE = 84
FRAME_STACK = 4

Widths = tuple[int, int, int, int]

WIDTHS: Widths = (32, 64, 64, 512)
"""Channels of the three convolutions, and features."""

ATTACH_POINTS: dict[str, tuple[int, int, int]] = {
    "input": (1, 4, 84),
    "conv1": (2, 32, 20),
    "conv2": (3, 64, 9),
    "conv3": (4, 64, 7),
}
"""Where an IC can hang: number of blocks before it, channels and side of what it reads."""

SB3_NAMES = {
    "blocks.1.0": "features_extractor.cnn.0",
    "blocks.2.0": "features_extractor.cnn.2",
    "blocks.3.0": "features_extractor.cnn.4",
    "blocks.4.1": "features_extractor.linear.0",
    "head": "action_net",
}
"""Our name of each layer, and Stable-Baselines3's."""


class ScalePixels(nn.Module):
    """uint8 pixels to floats in 0 … 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale (B, C, H, W); the result is channels-last, which convolutions are fastest on."""
        # Bytes are transposed rather than floats: four times less to move. Floats that need no
        # conversion are copied, since they are the caller's.
        pixels = x.contiguous(memory_format=torch.channels_last).to(torch.float32, copy=True)
        return pixels.div_(255)


def _column_major(linear: nn.Linear) -> nn.Linear:
    """The same layer with its weight stored column by column.

    On the CPU this more than halves the time of a wide layer on a handful of samples.
    """
    linear.weight.data = linear.weight.data.t().contiguous().t()
    return linear


def nature_cnn(n_actions: int, widths: Widths = WIDTHS) -> tuple[list[nn.Module], nn.Module]:
    """Blocks and head of a NatureCNN policy with 4 stacked 84×84 frames as input.

    Args:
        n_actions: Size of the action space.
        widths: Channels of the three convolutions, and features.

    Returns:
        Five blocks (pixels, three convolutions, the features), and the head.
    """
    first, second, third, features = widths
    blocks: list[nn.Module] = [
        ScalePixels(),
        nn.Sequential(nn.Conv2d(FRAME_STACK, first, kernel_size=8, stride=4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(first, second, kernel_size=4, stride=2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(second, third, kernel_size=3, stride=1), nn.ReLU()),
        nn.Sequential(nn.Flatten(), _column_major(nn.Linear(third * 7 * 7, features)), nn.ReLU()),
    ]
    return blocks, nn.Linear(features, n_actions)


def policy_alone(n_actions: int, widths: Widths = WIDTHS) -> EarlyExitModel:
    """A NatureCNN policy without any IC, its parameters random.

    Args:
        n_actions: Size of the action space.
        widths: Channels of the three convolutions, and features.

    Returns:
        The model, channels-last.
    """
    model = EarlyExitModel(*nature_cnn(n_actions, widths), ics=[], attach=[])
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def early_exit_nature_cnn(
    n_actions: int,
    exits: Sequence[str] = ("conv1", "conv2"),
    method: Method = METHODS["ztw"],
) -> EarlyExitModel:
    """A NatureCNN policy with internal classifiers, its parameters still random.

    The ICs' convolutions have stride 4, no padding, and keep the number of channels, but for the
    one on the input (``PixelClassifier``); cascaded logits are layer-normalised; the policy's own
    head stays outside the ensemble.

    Args:
        n_actions: Size of the action space.
        exits: Places of the ICs, names of ``ATTACH_POINTS`` in order of depth.
        method: Which parts the model has.

    Returns:
        The model, channels-last.

    Raises:
        UserError: A place is unknown, repeated or out of order.
    """
    order = [name for name in ATTACH_POINTS if name in exits]
    if order != list(exits) or not exits:
        raise UserError(
            f"exits must be some of {', '.join(ATTACH_POINTS)} in this order, "
            f"not '{', '.join(exits)}'"
        )
    blocks, head = nature_cnn(n_actions)
    ics: list[nn.Module] = []
    for place, name in enumerate(exits):
        _, channels, size = ATTACH_POINTS[name]
        if name == "input":
            ics.append(PixelClassifier(PixelICConfig(channels, (size, size), n_actions)))
            continue
        ics.append(
            MapClassifier(
                MapConfig(channels, (size, size), channels, stride=4, padding=0),
                Connection(
                    n_actions,
                    cascade=method.cascade and place > 0,
                    stop_gradient=method.stop_gradient,
                    layer_norm=True,
                ),
            )
        )
    model = EarlyExitModel(
        blocks,
        head,
        ics,
        attach=[ATTACH_POINTS[name][0] for name in exits],
        ensemble=method.ensemble(len(ics), n_actions) if method.ensemble else None,
    )
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def from_sb3(parameters: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The policy's own parameters out of an SB3 ``CnnPolicy``; the value net is left out.

    Args:
        parameters: The policy's ``state_dict``.
        source: Where they come from, for the error.

    Returns:
        Parameters under ``EarlyExitModel``'s names, without any of the ICs'.

    Raises:
        UserError: This is no plain NatureCNN ``CnnPolicy`` on 4 stacked 84×84 frames.
    """
    blocks, head = nature_cnn(n_actions=len(parameters.get("action_net.bias", ())) or 1)
    wanted = EarlyExitModel(blocks, head, ics=[], attach=[]).state_dict()
    found = {}
    for name, shape in ((name, t.shape) for name, t in wanted.items()):
        layer, kind = name.rsplit(".", 1)
        tensor = parameters.get(f"{SB3_NAMES[layer]}.{kind}")
        if tensor is None or tensor.shape != shape:
            raise UserError(
                f"{source} is no plain NatureCNN CnnPolicy on 4 frames of 84x84 "
                f"('{SB3_NAMES[layer]}.{kind}' is missing or of another shape); "
                "only such a policy can be distilled"
            )
        found[name] = tensor
    hidden = [name for name in parameters if name.startswith("mlp_extractor.")]
    if hidden:
        raise UserError(
            f"{source} has layers between NatureCNN and the action head ('{hidden[0]}'); "
            "only a CnnPolicy with net_arch=[] can be distilled"
        )
    return found
