"""A few letters that tell weights apart, however they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

N_DIGITS = 16
"""Hexadecimal digits: 64 bits, enough for weights that nobody forges."""


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A digest of named tensors.

    Floating-point numbers count as rounded to halves, which is how agents are stored, so that
    weights have one fingerprint before and after.

    Args:
        tensors: Anything ``state_dict`` gives, on any device and in any memory format.

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float16)
        values = tensor.contiguous().numpy()
        little_endian = values.astype(values.dtype.newbyteorder("<"))
        digest.update(f"{name} {values.dtype.name} {tuple(values.shape)}\n".encode())
        digest.update(little_endian.tobytes())
    return digest.hexdigest()[:N_DIGITS]
