"""SB3's rollout buffer on the learner's device, its pictures channels-last."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

COLUMNS = ("actions", "values", "log_probs", "advantages", "returns")


class FrameBuffer(RolloutBuffer):
    """A ``RolloutBuffer`` of (C, H, W) uint8 observations.

    Every epoch reads every sample: observations are sent to the device, and turned channels-last,
    once when they are added, all else once per rollout. Minibatches hold the same samples as those
    of ``RolloutBuffer``, in the same order.

    Args:
        *args: As ``RolloutBuffer``.
        **kwargs: As ``RolloutBuffer``.
    """

    _columns: tuple[Tensor, ...]
    """What a minibatch holds beside the observations, as ``RolloutBufferSamples`` orders it."""
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

    def add(self, obs: np.ndarray | Tensor, *args: Any, **kwargs: Any) -> None:
        """Keep one step of every environment.

        Args:
            obs: (N environments, C, H, W), uint8, wherever it is.
            *args: As ``RolloutBuffer.add``.
            **kwargs: As ``RolloutBuffer.add``.
        """
        frames = torch.as_tensor(obs, device=self.device).permute(0, 2, 3, 1)
        self._frames[self.pos :: self.buffer_size].copy_(frames)
        super().add(np.empty((self.n_envs, 0), np.uint8), *args, **kwargs)

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """All samples once, in minibatches on the device; see ``RolloutBuffer.get``."""
        assert self.full
        n = self.n_envs * self.buffer_size
        # NumPy's global generator, as RolloutBuffer: the same seed gives the same minibatches.
        order = torch.as_tensor(np.random.permutation(n), device=self.device)  # noqa: NPY002
        if not self.generator_ready:
            self._columns = tuple(map(self._column, COLUMNS))
            self.generator_ready = True
        for index in torch.split(order, batch_size or n):
            frames = self._frames.index_select(0, index).permute(0, 3, 1, 2)
            actions, *rest = (column[index] for column in self._columns)
            yield RolloutBufferSamples(frames, actions.float(), *(x.flatten() for x in rest))

    def _column(self, name: str) -> Tensor:
        """(N environments x steps, 1) of an array, one environment after another."""
        return torch.as_tensor(self.swap_and_flatten(getattr(self, name)), device=self.device)

    def _get_samples(self, *args: Any, **kwargs: Any) -> RolloutBufferSamples:
        raise NotImplementedError("a FrameBuffer gives whole epochs; call get")
