"""What PyTorch's operators are given, as LiteRT takes it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ztw_rl.core.backends.litert.graph import Array


class UnsupportedError(Exception):
    """There is no operator of LiteRT for it here."""


def array(tensor: Tensor) -> Array:
    """What never changes, as float32."""
    return tensor.detach().float().cpu().numpy()


def pair(value: Sequence[int] | int) -> tuple[int, int]:
    """Of height and width, where one number stands for both."""
    if isinstance(value, int):
        return value, value
    return value[0], value[-1]


def need(true: bool, what: str) -> None:
    """Go on only if something holds.

    Raises:
        UnsupportedError: It does not; ``what`` says what cannot be run.
    """
    if not true:
        raise UnsupportedError(what)
