"""Backbones by name, and the layout of internal classifiers that suits each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import nn

from ztw_rl.core.cost import count_macs
from ztw_rl.core.cut import cut
from ztw_rl.core.gates import Gate, make_gates
from ztw_rl.core.heads import InternalClassifier
from ztw_rl.core.ics import Convolution, build_ics
from ztw_rl.core.model import EarlyExitModel, Method
from ztw_rl.errors import UserError
from ztw_rl.supervised.backbones import libraries
from ztw_rl.supervised.backbones.base import Backbone, NormalizePixels
from ztw_rl.supervised.backbones.mobilenet import MobileNet
from ztw_rl.supervised.backbones.resnets import CifarResNet, ResNet50, WideResNet
from ztw_rl.supervised.backbones.vgg import VGG16
from ztw_rl.supervised.config import AnyArch, Arch, PixelConfig, library_arch

_BUILDERS: dict[Arch, Callable[[int, int], Backbone]] = {
    "resnet56": lambda n_classes, image_size: CifarResNet(n_classes),
    "mobilenet": lambda n_classes, image_size: MobileNet(n_classes),
    "wideresnet": lambda n_classes, image_size: WideResNet(n_classes),
    "vgg16": VGG16,
    "resnet50": lambda n_classes, image_size: ResNet50(n_classes),
}
LARGE: tuple[Arch, ...] = ("resnet50",)
"""Networks for large images: an IC every third block, a quarter of the channels, LayerNorm."""
N_LIBRARY_ICS = 3
"""In a library's network, if nobody says how many."""
STRIDE_ABOVE = 8
"""ICs on images of 64 pixels and more convolve with stride 2 where both sides exceed this."""


def build_backbone(arch: AnyArch, n_classes: int, image_size: int) -> nn.Module:
    """A network with random parameters.

    Args:
        arch: Its name.
        n_classes: Number of classes.
        image_size: Side of the images in pixels.

    Returns:
        A ``Backbone``, or the very network of timm or torchvision.

    Raises:
        UserError: There is no such network, it cannot read images of this size, or its library is
            not installed.
    """
    library = library_arch(arch)
    if library is not None:
        return libraries.build(library, n_classes, image_size)
    if image_size % 32:
        raise UserError(f"{arch} needs images whose side is a multiple of 32, not {image_size}")
    return _BUILDERS[cast("Arch", arch)](n_classes, image_size)


def early_exit(
    backbone: nn.Module,
    arch: AnyArch,
    method: Method,
    *,
    n_classes: int,
    pixels: PixelConfig,
    n_ics: int | None = None,
    gates: Sequence[str] = (),
) -> EarlyExitModel:
    """A backbone with internal classifiers, whose parameters are still random.

    The model reads uint8 pixels. Its ensemble, where it has one, takes in the backbone's own head.

    Args:
        backbone: The network; the model shares its parameters.
        arch: The network's name.
        method: Which parts the model has.
        n_classes: Number of classes C.
        pixels: Size and normalisation of the images.
        n_ics: Number of ICs, spread evenly; by default one after each block, or after each third
            block of a network for large images. In a network of a library they are spread over
            the operations, three by default.
        gates: Names of its sets of gates.

    Returns:
        The model, channels-last.

    Raises:
        UserError: ``n_ics`` exceeds the number of blocks, or a library's network cannot be cut.
    """
    normalize = NormalizePixels(pixels.mean, pixels.std)
    if isinstance(backbone, Backbone):
        parts = _own(backbone, normalize, arch, method, n_classes, pixels, n_ics)
    else:
        parts = _library(backbone, normalize, method, n_classes, pixels, n_ics)
    blocks, head, ics, places = parts
    ensemble = method.ensemble(len(ics) + 1, n_classes) if method.ensemble else None
    made: dict[str, list[Gate]] = {}
    if gates:
        x = torch.zeros(1, 3, pixels.image_size, pixels.image_size, dtype=torch.uint8)
        # A copy: in eval mode, so that counting teaches it nothing.
        network = copy.deepcopy(nn.Sequential(*blocks, head)).eval()
        macs = count_macs(lambda: network(x))
        made = {name: make_gates([ic.n_pooled for ic in ics], n_classes, macs) for name in gates}
    model = EarlyExitModel(blocks, head, ics, places, ensemble, made)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


Parts = tuple[list[nn.Module], nn.Module, list[InternalClassifier], tuple[int, ...]]
"""Blocks, head, ICs and their places."""


def _library(
    network: nn.Module,
    normalize: NormalizePixels,
    method: Method,
    n_classes: int,
    pixels: PixelConfig,
    n_ics: int | None,
) -> Parts:
    """A library's network, cut where ``torch.fx`` says."""
    size = pixels.image_size
    x = normalize(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    found = cut(network, x, N_LIBRARY_ICS if n_ics is None else n_ics)
    blocks = [normalize, *found.blocks]
    ics = build_ics(found.shapes, n_classes, method)
    return blocks, found.head, ics, tuple(range(2, len(blocks) + 1))


def _own(
    backbone: Backbone,
    normalize: NormalizePixels,
    arch: AnyArch,
    method: Method,
    n_classes: int,
    pixels: PixelConfig,
    n_ics: int | None,
) -> Parts:
    """A network of our own, with the paper's ICs."""
    large = arch in LARGE
    blocks, head, places = backbone.cut()
    blocks = [normalize, *blocks]
    places = tuple(place + 1 for place in _spread(places, n_ics, every=3 if large else 1))
    shapes = _shapes(blocks, places, pixels.image_size)

    def convolution(channels: int, height: int, width: int) -> Convolution:
        wide = pixels.image_size > 32 and min(height, width) > STRIDE_ABOVE
        return Convolution(channels // 4 if large else channels, 2 if wide else 1, 1)

    ics = build_ics(shapes, n_classes, method, convolution=convolution, layer_norm=large)
    return blocks, head, ics, places


def _spread(places: tuple[int, ...], n_ics: int | None, every: int) -> tuple[int, ...]:
    """The places that carry an IC."""
    if n_ics is None:
        return places[every - 1 :: every]
    if n_ics > len(places):
        raise UserError(f"n_ics is {n_ics}, but the network has {len(places)} blocks; ask for less")
    return tuple(places[(number + 1) * len(places) // n_ics - 1] for number in range(n_ics))


@torch.no_grad()
def _shapes(
    blocks: list[nn.Module], places: tuple[int, ...], image_size: int
) -> list[tuple[int, int, int]]:
    """Channels, height and width of the features at each place."""
    shapes = []
    modes = [block.training for block in blocks]
    x = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8)
    for number, block in enumerate(blocks, start=1):
        x = block.eval()(x)
        if number in places:
            _, channels, height, width = x.shape
            shapes.append((channels, height, width))
    for block, mode in zip(blocks, modes, strict=True):
        block.train(mode)
    return shapes
