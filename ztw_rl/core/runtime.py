"""Early exit online: what has been answered is computed no further."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ztw_rl.core.backends.backend import Backend, Prediction, Predictor
from ztw_rl.core.backends.compiled import compiled
from ztw_rl.core.backends.onnx import onnx
from ztw_rl.core.backends.staged import eager
from ztw_rl.core.exits import ExitRule, Fallback, last
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.errors import UserError

BACKENDS: dict[str, Callable[[EarlyExitModel, Tensor, int], Backend]] = {
    "eager": lambda model, x, n_threads: eager(model),
    "compiled": lambda model, x, n_threads: compiled(model),
    "onnx": onnx,
}
"""By name: from a model, a (1, …) input and a number of threads to what runs it."""


class Decision(NamedTuple):
    """What an early-exit model said about a batch."""

    log_probs: Tensor
    """(B, C) of the answering exit."""
    left_at: Tensor
    """(B,) the exit at which computation stopped."""
    answered_by: Tensor
    """(B,) the exit that answered; another than ``left_at`` only by choice of the fallback."""


@torch.no_grad()
def decide(model: EarlyExitModel, x: Tensor, rule: ExitRule, fallback: Fallback = last) -> Decision:
    """Run a batch through the model; samples that leave are dropped from all further work.

    Features, cascaded logits, the ensemble's members and per-sample settings of the rule are all
    compacted. The result equals ``exits.select`` on the full ``model(x)``.

    Args:
        model: The model, in eval mode.
        x: (B, …), the network's input.
        rule: Who leaves.
        fallback: Who answers for a sample that nobody let go.

    Returns:
        Answers and exits, in the order of ``x``.
    """
    n_exits = model.n_exits
    rule = rule.to(x.device)
    alive = torch.arange(x.shape[0], device=x.device)
    left_at = torch.full_like(alive, n_exits - 1)
    answered_by = left_at.clone()
    chosen: Tensor | None = None
    logits: Tensor | None = None
    own: list[Tensor] = []
    answers: list[Tensor] = []
    for m in range(n_exits):
        x = model.features(m, x)
        logits = model.classify(m, x, logits).float()
        own.append(torch.log_softmax(logits, dim=-1))
        answers.append(model.answer(m, torch.stack(own, dim=1)))
        if chosen is None:
            chosen = torch.empty_like(answers[0])
        if m == n_exits - 1:
            history = torch.stack(answers, dim=1)
            by = fallback(history)
            answered_by[alive] = by
            chosen[alive] = history[torch.arange(len(alive), device=by.device), by]
            break
        leaves = rule.leaves(torch.stack(answers, dim=1))
        if leaves.any():
            gone = alive[leaves]
            left_at[gone] = m
            answered_by[gone] = m
            chosen[gone] = answers[m][leaves]
            stays = (~leaves).nonzero().squeeze(1)
            if not len(stays):
                break
            alive, x, logits = alive[stays], x[stays], logits[stays]
            own = [t[stays] for t in own]
            answers = [t[stays] for t in answers]
            rule = rule.rows(stays)
    assert chosen is not None
    return Decision(chosen, left_at, answered_by)


def make_backend(name: str, model: EarlyExitModel, x: Tensor, n_threads: int = 1) -> Backend:
    """A backend by name.

    Args:
        name: ``eager``, ``compiled`` or ``onnx``.
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.
        n_threads: Of ONNX Runtime; PyTorch's are set with ``timing.threads``.

    Raises:
        UserError: The name is unknown, or what the backend needs is not installed.
    """
    if name not in BACKENDS:
        raise UserError(f"unknown backend '{name}'; choose from {', '.join(BACKENDS)}")
    return BACKENDS[name](model, x, n_threads)


class Runtime:
    """An early-exit model online: checked inputs, fixed thresholds, any backend.

    Args:
        backend: What runs the model.
        x: (1, …), any input of the right shape and type.
        threshold: τ for all ICs, or E−1 of them.

    Raises:
        UserError: The number of thresholds is wrong.
    """

    def __init__(self, backend: Predictor, x: Tensor, threshold: npt.ArrayLike) -> None:
        n_ics = backend.n_exits - 1
        # Rounded as confidences are, so that every backend compares the same numbers.
        given = np.asarray(threshold, np.float32)
        if given.ndim == 0:
            given = np.full(n_ics, given)
        if len(given) != n_ics:
            raise UserError(f"{n_ics} thresholds are needed, not {len(given)}")
        self.backend = backend
        self.input_shape = tuple(x.shape[1:])
        self.input_dtype = x.dtype
        self.thresholds: tuple[float, ...] = tuple(given.tolist())

    def predict(self, x: Tensor) -> Prediction:
        """Answer a batch; samples that have left are computed no further.

        Args:
            x: (B, …).

        Returns:
            Answers, exits and confidences. A sample with NaN in it goes to the last exit.

        Raises:
            UserError: ``x`` has another shape or type than the model takes.
        """
        if tuple(x.shape[1:]) != self.input_shape or x.dtype != self.input_dtype:
            wanted = ", ".join(map(str, self.input_shape))
            raise UserError(
                f"the input is {x.dtype} {tuple(x.shape)}, but the model takes "
                f"{self.input_dtype} (B, {wanted})"
            )
        return self.backend.predict(x, self.thresholds)
