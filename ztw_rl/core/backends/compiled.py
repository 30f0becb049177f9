"""A model's segments through ``torch.compile``."""

from __future__ import annotations

import os
import shutil
import sys
from types import FunctionType, MethodType

import torch

from ztw_rl.core.backends.eager import SegmentsBackend
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.segment import Segment, SegmentFunction
from ztw_rl.errors import UserError


def require_compiler(remedy: str) -> None:
    """Find out whether PyTorch can build generated C++: with the program that ``CXX`` names.

    Args:
        remedy: What else the user can do.

    Raises:
        UserError: There is no C++ compiler.
    """
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    # As a whole: PyTorch splits no arguments off, so it cannot run "ccache g++" either.
    if shutil.which(name) is None:
        raise UserError(
            f"there is no C++ compiler '{name}' (CXX names it, without arguments); {remedy}"
        )


def compiled(model: EarlyExitModel) -> SegmentsBackend:
    """Segments compiled at their first call, which takes up to a minute and a C++ compiler.

    Args:
        model: In eval mode, its parameters frozen.
    """
    segments = [torch.compile(_alone(segment)) for segment in model.answering()]
    return SegmentsBackend("torch.compile", segments, torch.compile(model.backbone))


def _alone(segment: Segment) -> SegmentFunction:
    """A segment's ``forward`` with a code object of its own.

    PyTorch compiles a code object for eight cases at most, of which every segment would be one.
    """
    forward = Segment.forward
    return MethodType(FunctionType(forward.__code__.replace(), forward.__globals__), segment)
