"""A model's stages through ``torch.compile``."""

from __future__ import annotations

import os
import shutil
import sys
from types import FunctionType, MethodType

import torch

from ztw_rl.core.backends.staged import StagedBackend
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.stage import Stage, StageFunction
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


def compiled(model: EarlyExitModel) -> StagedBackend:
    """Stages compiled at their first call, which takes up to a minute and a C++ compiler.

    Args:
        model: In eval mode, its parameters frozen.
    """
    compiled_stages = [torch.compile(_alone(Stage(model, m))) for m in range(model.n_exits)]
    return StagedBackend("torch.compile", compiled_stages, torch.compile(model.backbone))


def _alone(stage: Stage) -> StageFunction:
    """A stage's ``forward`` with a code object of its own.

    PyTorch compiles a code object for eight cases at most, of which every stage would be one.
    """
    forward = Stage.forward
    return MethodType(FunctionType(forward.__code__.replace(), forward.__globals__), stage)
