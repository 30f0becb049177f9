"""Importing torchvision beside any build of torch."""

from __future__ import annotations

import importlib
import sys

import torch

from ztw_rl.errors import UserError

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
