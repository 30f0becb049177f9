"""Weights of published networks and of our own, by the networks' usual parameter names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ztw_rl.core.checkpoint import load_tensors
from ztw_rl.errors import UserError
from ztw_rl.supervised.backbones.base import Backbone

WRAPPERS = ("state_dict", "model", "net", "model_state_dict")
"""Keys under which training scripts keep the weights."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors of a ``.safetensors`` file, or of torch's own format without its pickles.

    Args:
        path: The file. Wrappers around the weights and the prefix ``module.`` of data-parallel
            training are removed.

    Raises:
        UserError: The file is missing, damaged, or holds something else than weights.
    """
    if path.suffix == ".safetensors":
        return _bare(load_tensors(path))
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be read as weights ({reason})") from None
    for wrapper in WRAPPERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(wrapper), Mapping):
            stored = stored[wrapper]
    if not isinstance(stored, Mapping) or not stored:
        raise UserError(f"{path} holds no weights")
    if not all(isinstance(value, Tensor) for value in stored.values()):
        raise UserError(f"{path} holds something else than weights")
    return _bare(stored)


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def load_weights(
    backbone: nn.Module, tensors: Mapping[str, Tensor], source: object, but: tuple[str, ...] = ()
) -> None:
    """Put named tensors into a network; ``num_batches_tracked`` may be missing.

    Args:
        backbone: The network.
        tensors: What ``read_weights`` gave.
        source: Where they come from, for the error.
        but: Names of tensors that stay as the network has them.

    Raises:
        UserError: The tensors belong to another network.
    """
    wanted = backbone.state_dict()
    found = {}
    for name, tensor in wanted.items():
        given = tensors.get(name)
        if name in but or (given is None and name.endswith("num_batches_tracked")):
            found[name] = tensor
        elif given is None or given.shape != tensor.shape:
            what = "missing" if given is None else f"{tuple(given.shape)}"
            raise UserError(
                f"{source} holds the weights of another network: '{name}' is {what}, "
                f"expected {tuple(tensor.shape)}"
            )
        else:
            found[name] = given
    surplus = sorted(set(tensors) - set(wanted))
    if surplus:
        raise UserError(
            f"{source} holds the weights of another network: '{surplus[0]}' has no place"
        )
    backbone.load_state_dict(found)


def final_layer(network: nn.Module, name: object = "the network") -> nn.Linear:
    """The layer that tells the classes apart.

    Args:
        network: A backbone, or a network of timm or torchvision.
        name: What the error calls it.

    Raises:
        UserError: It is no linear layer.
    """
    if isinstance(network, Backbone):
        return network.final
    # timm's networks say which it is.
    ask = getattr(network, "get_classifier", None)
    said = ask() if callable(ask) else None
    layers = [said] if said is not None else list(network.modules())
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if not linear:
        raise UserError(f"{name} has no final linear layer; choose another --arch")
    return linear[-1]


def final_names(network: nn.Module) -> tuple[str, ...]:
    """Parameter names of the final linear layer."""
    final = final_layer(network)
    (layer,) = (name for name, module in network.named_modules() if module is final)
    return tuple(f"{layer}.{name}" for name, _ in final.named_parameters())


_LIBRARIES: list[torch.library.Library] = []


def import_torchvision() -> None:
    """Import torchvision, even if its compiled operators do not fit this build of torch.

    With a CPU build of torch and a CUDA build of torchvision the import fails while it registers
    meta kernels for operators that were never declared. Nothing here runs these operators, so
    declaring them is enough.

    Raises:
        UserError: torchvision is not installed.
    """
    try:
        _import()
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        # A library that is garbage-collected takes its declarations along.
        _LIBRARIES.append(library)
        _import()


def _import() -> None:
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        raise UserError(
            "torchvision is needed here; install it with: pip install 'ztw-rl[vision]'"
        ) from None
