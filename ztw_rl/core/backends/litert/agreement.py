"""How often weights of eight bits change what an exit would do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ztw_rl import deploy, deployed
from ztw_rl.core.backends.litert.backend import one_file
from ztw_rl.core.backends.sessions import interface
from ztw_rl.core.model import EarlyExitModel


def share_changed(model: EarlyExitModel, inputs: Tensor) -> float:
    """Of some inputs, the share at which the likeliest class of any exit is another.

    Args:
        model: In eval mode, on the CPU.
        inputs: (N, …), real ones.

    Raises:
        UserError: A package is missing, LiteRT cannot express a layer, or none is wide.
    """
    metadata = interface(model, inputs[:1])
    labels = []
    for weights in deploy.WEIGHTS:
        content = one_file(model, inputs[:1], "label", metadata, weights)
        opened = deploy.open_tflite(content, metadata, 1, "the model")
        labels.append(_labels(opened, inputs.numpy()))
    exact, rounded = labels
    return float((exact != rounded).any(axis=1).mean())


def _labels(model: deployed.LitertModel, x: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """(N, E) likeliest classes."""
    found = []
    for start in range(0, len(x), deployed.CHUNK):
        features, logits = x[start : start + deployed.CHUNK], None
        labels = []
        for m in range(model.n_exits):
            *state, log_probs, _ = model.run_exit(m, features, logits)[:4]
            labels.append(log_probs.argmax(axis=1))
            if state:
                features, logits = state
        found.append(np.stack(labels, axis=1))
    return np.concatenate(found)
