"""Networks of timm and of torchvision: their own modules, under their own names."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ztw_rl.errors import UserError
from ztw_rl.supervised.backbones.weights import final_layer, import_torchvision
from ztw_rl.supervised.config import Library, LibraryArch, PixelConfig


def build(arch: LibraryArch, n_classes: int, image_size: int) -> nn.Module:
    """A network with random parameters.

    Args:
        arch: Which.
        n_classes: Number of classes.
        image_size: Side of the images in pixels.

    Raises:
        UserError: The library is not installed or has no such network, or the network cannot read
            images of this size or has no final linear layer.
    """
    with warnings.catch_warnings():
        # Some warn of how they begin, which a training or a file decides.
        warnings.simplefilter("ignore")
        network = _BUILDERS[arch.library](arch.model, n_classes, image_size)
    final_layer(network, str(arch))
    _check_reads(network, arch, image_size)
    return network


def preprocessing(arch: LibraryArch) -> PixelConfig:
    """Size and normalisation of the images that the library's own weights were made for.

    Args:
        arch: Which network.

    Raises:
        UserError: The library is not installed or has no such network.
    """
    return _PREPROCESSING[arch.library](arch.model)


def _check_reads(network: nn.Module, arch: LibraryArch, image_size: int) -> None:
    """Run a network once.

    Raises:
        UserError: It fails.
    """
    training = network.training
    try:
        with torch.no_grad():
            found = network.eval()(torch.zeros(1, 3, image_size, image_size))
    # What a network asserts of its images is its own matter.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{arch} cannot read images of {image_size}x{image_size} pixels ({reason}); choose "
            "another --image-size, or another --arch"
        ) from None
    finally:
        network.train(training)
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise UserError(f"{arch} gives no (B, C) logits; choose another --arch")


def _timm(name: str) -> Any:
    """The library, if it has a network of this name."""
    # timm imports torchvision, which may need help.
    import_torchvision()
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError:
        raise UserError(
            "timm is needed here; install it with: pip install 'ztw-rl[timm]'"
        ) from None
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    return timm


def _build_timm(name: str, n_classes: int, image_size: int) -> nn.Module:
    timm = _timm(name)
    expected = timm.get_pretrained_cfg(name, allow_unregistered=True)
    how = {}
    # Of these networks the size is a part, such as their positions; others read any.
    if expected.fixed_input_size and expected.input_size[-1] != image_size:
        how["img_size"] = image_size
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=n_classes, **how)
    return network


def _timm_pixels(name: str) -> PixelConfig:
    expected = _timm(name).get_pretrained_cfg(name, allow_unregistered=True)
    return PixelConfig(expected.input_size[-1], tuple(expected.mean), tuple(expected.std))


def _torchvision(name: str) -> Any:
    """The library's classifiers, if there is one of this name."""
    import_torchvision()
    models = importlib.import_module("torchvision.models")
    names = models.list_models(module=models)
    if name not in names:
        raise _unknown("torchvision", name, names)
    return models


def _build_torchvision(name: str, n_classes: int, image_size: int) -> nn.Module:
    network: nn.Module = _torchvision(name).get_model(name, weights=None, num_classes=n_classes)
    return network


def _torchvision_pixels(name: str) -> PixelConfig:
    weights = _torchvision(name).get_model_weights(name)
    if not len(weights):
        return PixelConfig(224)
    expected = weights.DEFAULT.transforms()
    return PixelConfig(expected.crop_size[0], tuple(expected.mean), tuple(expected.std))


def _unknown(library: Library, name: str, names: Sequence[str]) -> UserError:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
    return UserError(f"{library} has no network '{name}'; did you mean {library}:{near}?")


_BUILDERS: dict[Library, Callable[[str, int, int], nn.Module]] = {
    "timm": _build_timm,
    "torchvision": _build_torchvision,
}
_PREPROCESSING: dict[Library, Callable[[str], PixelConfig]] = {
    "timm": _timm_pixels,
    "torchvision": _torchvision_pixels,
}
