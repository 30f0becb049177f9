"""Whatever users hold in their hands, as a batch that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ztw_rl.errors import UserError


def as_batch(
    x: npt.ArrayLike | Tensor, shape: Sequence[int], dtype: torch.dtype
) -> tuple[Tensor, bool]:
    """One input or a batch of them, channels first or last, as a batch with channels first.

    Args:
        x: (C, H, W) or (H, W, C), where the shape has three dimensions, else of that shape; or a
            batch of such. An array, a tensor or nested lists.
        shape: Of one input, without the batch.
        dtype: What the model takes.

    Returns:
        (B, …) tensor, and whether ``x`` was a single input.

    Raises:
        UserError: ``x`` has another shape or type than the model takes; the message names both.
    """
    if isinstance(x, dict):
        raise UserError("the model takes an array, not a dictionary")
    tensor = x if isinstance(x, Tensor) else _tensor(x)
    layouts = [tuple(shape)]
    if len(shape) == 3:
        layouts.append((shape[1], shape[2], shape[0]))
    single = tensor.ndim == len(shape)
    given = tuple(tensor.shape if single else tensor.shape[1:])
    if given not in layouts or tensor.dtype != dtype:
        wanted = " or ".join(map(str, layouts))
        raise UserError(
            f"the input is {_name(tensor.dtype)} {tuple(tensor.shape)}, but the model takes "
            f"{_name(dtype)} {wanted}, one or a batch"
        )
    batch = tensor[None] if single else tensor
    return batch if given == layouts[0] else batch.movedim(-1, 1).contiguous(), single


def _tensor(x: Any) -> Tensor:
    try:
        array = np.asarray(x)
        # Torch takes neither another machine's byte order nor memory that others guard.
        native = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
        return torch.from_numpy(np.ascontiguousarray(native)).reshape(array.shape)
    except (TypeError, ValueError):
        raise UserError(f"the input is no array of numbers but {type(x).__name__}") from None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
