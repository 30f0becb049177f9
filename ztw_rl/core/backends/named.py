"""Backends by name, as the command line has them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ztw_rl.core.backends.eager import compiled, eager, require_compiler
from ztw_rl.core.backends.litert.backend import litert
from ztw_rl.core.backends.names import BackendName
from ztw_rl.core.backends.onnx import onnx, require_packages
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import Backend
from ztw_rl.errors import UserError
from ztw_rl.interpreters import require_package

BACKENDS: dict[BackendName, Callable[[EarlyExitModel, Tensor, int], Backend]] = {
    "eager": lambda model, x, n_threads: eager(model),
    "compiled": lambda model, x, n_threads: compiled(model),
    "onnx": onnx,
    "litert": litert,
}
"""By name: from a model, a (1, …) input and a number of threads to what runs it."""


NEEDS: dict[BackendName, Callable[[], None]] = {
    "compiled": lambda: require_compiler("use the backend eager"),
    "onnx": require_packages,
    "litert": require_package,
}
"""What raises a UserError where a backend cannot be made."""


def check_backend(name: str) -> BackendName:
    """Find out whether there is a backend of this name, and what it needs.

    Returns:
        The name.

    Raises:
        UserError: There is not.
    """
    if name not in BACKENDS:
        raise UserError(f"unknown backend '{name}'; choose from {', '.join(BACKENDS)}")
    if name in NEEDS:
        NEEDS[name]()
    return name


def make_backend(name: str, model: EarlyExitModel, x: Tensor, n_threads: int = 1) -> Backend:
    """A backend by name.

    Args:
        name: ``eager``, ``compiled``, ``onnx`` or ``litert``.
        model: In eval mode; for ``onnx`` and ``litert`` on the CPU.
        x: (1, …), any input of the right shape and type, where the model is.
        n_threads: Of ONNX Runtime and LiteRT; PyTorch's are set with ``core.bench.threads``.

    Raises:
        UserError: The name is unknown, or what the backend needs is not installed.
    """
    return BACKENDS[check_backend(name)](model, x, n_threads)
