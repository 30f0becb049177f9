"""Early exit online: what has been answered is computed no further."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ztw_rl.core.exits import ExitRule, Fallback, last
from ztw_rl.core.model import SegmentFunction
from ztw_rl.decision import Decision, Rule, answered, bound
from ztw_rl.errors import UserError


class Predictor(Protocol):
    """Runs a model exit by exit and stops where an exit's signal is high enough.

    The exit rule is ``exits.Exceeds`` with the fallback ``exits.last``.
    """

    n_exits: int

    def predict(self, x: Tensor, bounds: Sequence[float]) -> Decision:
        """Answer a batch; samples that have left are computed no further.

        Args:
            x: (B, …), the network's input.
            bounds: E−1, one per IC, representable in float32; see ``decision.bound``.
        """
        ...


class Backend(Predictor, Protocol):
    """A predictor that also shows its segments, and runs the backbone alone to be compared with."""

    name: str
    """For tables."""

    @property
    def segments(self) -> Sequence[SegmentFunction]:
        """One per exit, for batches of at least one, and for any rule: see ``runtime.decide``."""
        ...

    def backbone(self, x: Tensor) -> Tensor:
        """(B, C) logits of the backbone alone: no IC is evaluated."""
        ...


@torch.inference_mode()
def decide(
    segments: Sequence[SegmentFunction], x: Tensor, rule: ExitRule, fallback: Fallback = last
) -> Decision:
    """Run a batch exit by exit; samples that leave are dropped from all further work.

    Features, logits and per-sample settings of the rule are all compacted. The result equals
    ``exits.select`` on what all exits of the model say.

    Args:
        segments: One per exit: a model's ``answering``, or a backend's.
        x: (B, …), the network's input.
        rule: Who leaves.
        fallback: Who answers for a sample that nobody let go.

    Returns:
        Answers and exits, in the order of ``x``.
    """
    rule = rule.to(x.device)
    alive = torch.arange(len(x), device=x.device)
    logits: Tensor | None = None
    answers: Tensor | None = None
    left: list[tuple[Tensor, Tensor, Tensor]] = []
    for m, segment in enumerate(segments):
        x, logits, log_probs, _, signal = segment(x, logits)
        newest = log_probs.unsqueeze(1)
        answers = newest if answers is None else torch.cat([answers, newest], dim=1)
        if m == len(segments) - 1:
            by = fallback(answers)
            left.append((alive, answers[torch.arange(len(by), device=by.device), by], by))
            break
        leaves = rule.leaves(answers, signal)
        gone = leaves.nonzero().squeeze(1)
        if not len(gone):
            continue
        left.append((alive[gone], log_probs[gone], torch.full_like(gone, m)))
        stays = (~leaves).nonzero().squeeze(1)
        if not len(stays):
            break
        alive, x, logits, answers = alive[stays], x[stays], logits[stays], answers[stays]
        rule = rule.rows(stays)
    index, answer, exits = (torch.cat(part) for part in zip(*left, strict=True))
    # Where each sample went: the inverse of where each came from.
    order = index.argsort()
    return answered(answer[order].cpu().numpy(), exits[order].cpu().numpy())


@torch.inference_mode()
def signals(segments: Sequence[SegmentFunction], x: Tensor) -> Tensor:
    """What every IC's answer is judged by, whoever would leave.

    Args:
        segments: See ``decide``.
        x: (B, …), the network's input.

    Returns:
        (B, E−1).
    """
    logits: Tensor | None = None
    found = []
    for segment in segments[:-1]:
        x, logits, _, _, signal = segment(x, logits)
        found.append(signal)
    return torch.stack(found, dim=1)


class Runtime:
    """An early-exit model online: checked inputs, fixed thresholds, any backend.

    Args:
        backend: What runs the model.
        x: (1, …), any input of the right shape and type, where the model is.
        threshold: τ for all ICs, or E−1 of them.
        rule: What exits are judged by in the backend's model.

    Raises:
        UserError: The number of thresholds is wrong.
    """

    def __init__(
        self,
        backend: Predictor,
        x: Tensor,
        threshold: npt.ArrayLike,
        rule: Rule = "confidence",
    ) -> None:
        n_ics = backend.n_exits - 1
        # Rounded as signals are, so that every backend compares the same numbers.
        given = np.asarray(threshold, np.float32)
        if given.ndim == 0:
            given = np.full(n_ics, given)
        if len(given) != n_ics:
            raise UserError(f"{n_ics} thresholds are needed, not {len(given)}")
        self.backend = backend
        self.input_shape = tuple(x.shape[1:])
        self.input_dtype = x.dtype
        self.device = x.device
        self.bounds: tuple[float, ...] = tuple(bound(rule, each) for each in given.tolist())

    def predict(self, x: Tensor) -> Decision:
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
        return self.backend.predict(x, self.bounds)


def as_batch(
    x: npt.ArrayLike | Tensor, shape: Sequence[int], dtype: torch.dtype
) -> tuple[Tensor, bool]:
    """One input or a batch of them, channels first or last, as a batch with channels first.

    Args:
        x: (C, H, W) or (H, W, C), where the shape has three dimensions, else of that shape; or a
            batch of such. An array, a tensor or nested lists.
        shape: Of one input, without the batch.
        dtype: What the model takes; floats of another precision are converted.

    Returns:
        (B, …) tensor, and whether ``x`` was a single input.

    Raises:
        UserError: ``x`` has another shape or type than the model takes; the message names both.
    """
    if isinstance(x, dict):
        raise UserError("the model takes an array, not a dictionary")
    tensor = x if isinstance(x, Tensor) else _tensor(x)
    if tensor.is_floating_point() and dtype.is_floating_point:
        # Simulators often give float64.
        tensor = tensor.to(dtype)
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
