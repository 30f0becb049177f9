"""An early-exit agent behind Stable-Baselines3's ``predict``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ztw_rl.core.runtime import Runtime
from ztw_rl.errors import UserError


class EarlyExitPolicy:
    """What ``stable_baselines3.common.evaluation.evaluate_policy`` and the like expect.

    Args:
        runtime: The agent's model on some backend, with its thresholds.
        seed: Of sampled actions.
    """

    def __init__(self, runtime: Runtime, seed: int = 0) -> None:
        self.runtime = runtime
        self._rng = np.random.default_rng(seed)

    def predict(
        self,
        observation: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]],
        state: tuple[npt.NDArray[Any], ...] | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[npt.NDArray[np.int64], tuple[npt.NDArray[Any], ...] | None]:
        """Actions for observations.

        Args:
            observation: (B, frame_stack, H, W) uint8, or a single one without B.
            state: Handed back as it is; the policy has no memory.
            episode_start: Not used.
            deterministic: The likeliest action rather than a sample.

        Returns:
            (B,) actions, or () for a single observation; and ``state``.

        Raises:
            UserError: The observation has another shape or type.
        """
        if isinstance(observation, Mapping):
            raise UserError("the policy takes an array of pixels, not a dictionary")
        x = np.ascontiguousarray(observation)
        single = x.ndim == len(self.runtime.input_shape)
        batch = torch.from_numpy(x[None] if single else x)
        log_probs = self.runtime.predict(batch.to(self.runtime.device)).log_probs
        if not deterministic:
            log_probs = log_probs + self._rng.gumbel(size=log_probs.shape)
        actions: npt.NDArray[np.int64] = log_probs.argmax(axis=1)
        return (actions[0] if single else actions), state
