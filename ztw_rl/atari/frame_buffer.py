"""SB3's rollout buffer, its pictures on the learner's device and channels-last."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor


class FrameBuffer(RolloutBuffer):
    """A ``RolloutBuffer`` of (C, H, W) uint8 observations.

    Every epoch reads every observation: they are sent to the device, and turned channels-last,
    once when they are added rather than once per epoch. Minibatches hold the same samples as
    those of ``RolloutBuffer``.

    Args:
        *args: As ``RolloutBuffer``.
        **kwargs: As ``RolloutBuffer``.
    """

    _frames: Tensor
    """(N environments x steps, H, W, C), uint8: one environment after another."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        channels, height, width = self.obs_shape
        self._frames = torch.empty(
            (self.n_envs * self.buffer_size, height, width, channels),
            dtype=torch.uint8,
            device=self.device,
        )

    def reset(self) -> None:
        """Begin a new rollout."""
        super().reset()
        self.observations = np.empty((self.buffer_size, self.n_envs, 0), np.uint8)

    def add(self, obs: np.ndarray, *args: Any, **kwargs: Any) -> None:
        """Keep one step of every environment.

        Args:
            obs: (N environments, C, H, W), uint8.
            *args: As ``RolloutBuffer.add``.
            **kwargs: As ``RolloutBuffer.add``.
        """
        frames = torch.as_tensor(obs).permute(0, 2, 3, 1)
        self._frames[self.pos :: self.buffer_size].copy_(frames)
        super().add(np.empty((self.n_envs, 0), np.uint8), *args, **kwargs)

    def _get_samples(
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> RolloutBufferSamples:
        chosen = torch.as_tensor(batch_inds, device=self._frames.device)
        frames = self._frames.index_select(0, chosen).permute(0, 3, 1, 2)
        return super()._get_samples(batch_inds, env)._replace(observations=frames)
