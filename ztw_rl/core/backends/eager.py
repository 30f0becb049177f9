"""Backends that run a model's segments as PyTorch functions."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType

import numpy as np
import torch
from torch import Tensor

from ztw_rl.core.exits import Exceeds
from ztw_rl.core.model import EarlyExitModel, Segment, SegmentFunction
from ztw_rl.core.runtime import decide
from ztw_rl.decision import Decision, answered
from ztw_rl.errors import UserError


class Segments:
    """Runs one segment after another, with compaction in between; see ``runtime.Predictor``.

    Args:
        segments: One per exit, see ``model.Segment``.
    """

    def __init__(self, segments: Sequence[SegmentFunction]) -> None:
        self.n_exits = len(segments)
        self.segments = tuple(segments)

    @torch.inference_mode()
    def predict(self, x: Tensor, bounds: Sequence[float]) -> Decision:
        """See ``Predictor.predict``."""
        if len(x) == 1:
            return self._predict_one(x, bounds)
        return self._predict_batch(x, bounds)

    def _predict_one(self, x: Tensor, bounds: Sequence[float]) -> Decision:
        """One sample: nothing to compact, so nothing to keep track of."""
        logits = None
        for m, least in enumerate((*bounds, -torch.inf)):
            x, logits, log_probs, _, signal = self.segments[m](x, logits)
            if signal.item() > least:
                break
        return answered(log_probs.cpu().numpy(), np.array([m]))

    def _predict_batch(self, x: Tensor, bounds: Sequence[float]) -> Decision:
        return decide(self.segments, x, Exceeds(torch.tensor(bounds)))


class SegmentsBackend(Segments):
    """Segments, and the backbone beside them; see ``runtime.Backend``.

    Args:
        name: For tables.
        segments: One per exit, see ``model.Segment``.
        backbone: From the network's input to logits.
    """

    def __init__(
        self, name: str, segments: Sequence[SegmentFunction], backbone: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(segments)
        self.name = name
        self._backbone = backbone

    @torch.inference_mode()
    def backbone(self, x: Tensor) -> Tensor:
        """See ``Backend.backbone``."""
        return self._backbone(x)


def eager(model: EarlyExitModel) -> SegmentsBackend:
    """Plain PyTorch.

    Args:
        model: In eval mode.
    """
    return SegmentsBackend("eager PyTorch", model.answering(), model.backbone)


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
