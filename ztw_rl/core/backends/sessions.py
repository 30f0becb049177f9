"""A backend on sessions: one for each exit, with arrays in and out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ztw_rl import deployed
from ztw_rl.core.model import EarlyExitModel, SegmentOutput
from ztw_rl.decision import Decision, never


class SessionsBackend:
    """See ``runtime.Backend``.

    Args:
        name: For tables.
        model: The segments.
        backbone: Session from ``x`` to ``logits``.
    """

    def __init__(
        self,
        name: str,
        model: deployed.DeployedModel,
        backbone: deployed.Session,
    ) -> None:
        self.name = name
        self.n_exits = model.n_exits
        self._model = model
        self._backbone = backbone
        self.segments = tuple(partial(self._segment, m) for m in range(model.n_exits))

    def _segment(self, m: int, features: Tensor, logits: Tensor | None) -> SegmentOutput:
        """Exit m of a batch; see ``model.SegmentFunction``."""
        history = None if logits is None else logits.numpy()
        outputs = self._model.run_exit(m, features.numpy(), history)
        tensors = [torch.from_numpy(output) for output in outputs]
        if m == self.n_exits - 1:
            tensors = [torch.empty(0), torch.empty(0), *tensors]
        # Where exits are judged by their confidence, that is the signal.
        features, logits, log_probs, confidence = tensors[:4]
        return SegmentOutput(features, logits, log_probs, confidence, tensors[-1])

    def predict(self, x: Tensor, bounds: Sequence[float]) -> Decision:
        """See ``Backend.predict``."""
        return self._model.decide(x.numpy(), bounds)

    def backbone(self, x: Tensor) -> Tensor:
        """See ``Backend.backbone``."""
        # In chunks, as the segments run, for neither to have an advantage.
        array = x.numpy()
        parts = [
            self._backbone.run(("logits",), {"x": array[start : start + deployed.CHUNK]})[0]
            for start in range(0, max(1, len(array)), deployed.CHUNK)
        ]
        return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))


def head_is_ensembled(model: EarlyExitModel) -> bool:
    """Whether the last exit reads the others' logits."""
    return bool(model.ics) and model.is_ensembled(model.n_exits - 1)


@torch.no_grad()
def interface(model: EarlyExitModel, x: Tensor) -> dict[str, Any]:
    """The part of an artefact's metadata that ``deployed.DeployedModel`` needs.

    Args:
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.
    """
    return {
        "n_exits": model.n_exits,
        "n_classes": model.backbone(x).shape[1],
        "input_shape": list(x.shape[1:]),
        "input_dtype": str(x.numpy().dtype),
        "head_is_ensembled": head_is_ensembled(model),
        "rule": model.rule,
        # Nobody leaves early unless a threshold is chosen; JSON has no infinity.
        "thresholds": [never(model.rule)] * (model.n_exits - 1),
    }
