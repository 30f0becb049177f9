"""All engines that a network can be compared on, one thread each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from ztw_rl.core.backends.aoti import aoti
from ztw_rl.core.backends.named import BACKENDS, make_backend
from ztw_rl.core.backends.openvino import openvino
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import Backend
from ztw_rl.errors import UserError

FURTHER: dict[str, Callable[[EarlyExitModel, Tensor], Backend]] = {
    "aoti": aoti,
    "openvino": openvino,
}
"""Engines that are no backends of ``eval``."""


def installed(model: EarlyExitModel, x: Tensor) -> Iterator[tuple[str, Backend | UserError]]:
    """A model on every engine.

    Args:
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.

    Yields:
        The name, and the backend or why there is none here.
    """
    makers: dict[str, Callable[[EarlyExitModel, Tensor], Backend]] = {
        name: partial(make_backend, name) for name in BACKENDS
    } | FURTHER
    for name, make in makers.items():
        if name == "openvino" and importlib.util.find_spec(name) is None:
            yield name, UserError("openvino is missing; pip install openvino")
            continue
        try:
            yield name, make(model, x)
        except UserError as error:
            yield name, error
