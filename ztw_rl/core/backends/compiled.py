"""A model's stages through ``torch.compile``."""

from __future__ import annotations

import os
import shutil

import torch

from ztw_rl.core.backends.staged import StagedBackend
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.stage import Stage
from ztw_rl.errors import UserError


def require_compiler(remedy: str) -> None:
    """Find out whether generated C++ can be built.

    Args:
        remedy: What else the user can do.

    Raises:
        UserError: There is no C++ compiler.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise UserError(f"no C++ compiler (g++ or clang++) is installed; {remedy}")


def compiled(model: EarlyExitModel) -> StagedBackend:
    """Stages compiled at their first call, which takes up to a minute.

    Args:
        model: In eval mode, its parameters frozen.

    Raises:
        UserError: There is no C++ compiler.
    """
    require_compiler("use the backend eager")
    stages = [torch.compile(Stage(model, m).eval()) for m in range(model.n_exits)]
    return StagedBackend("torch.compile", stages, torch.compile(model.backbone))
