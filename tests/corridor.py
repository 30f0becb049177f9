"""Tiny environments whose every number is known; ``tests.corridor:Corridor-v0`` makes one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Corridor(gymnasium.Env[Any, Any]):
    """Walk right from a drawn cell to the last one. A step costs 1; the end is worth 10.

    Args:
        length: Number of cells.
        images: Whether observations are uint8 images of three colours rather than vectors (2,).
        size: Height of the images; they are two pixels narrower.
        n_actions: All but the second walk left.
    """

    def __init__(
        self, length: int = 5, images: bool = False, size: int = 12, n_actions: int = 2
    ) -> None:
        self.length = length
        self.images = images
        self.shape = (size, size - 2, 3)
        self.action_space = Discrete(n_actions)
        self.observation_space = (
            Box(0, 255, self.shape, np.uint8) if images else Box(-1, 20, (2,), np.float64)
        )

    def _seen(self) -> Any:
        if self.images:
            return np.full(self.shape, [self.cell, 10, 20], np.uint8)
        return np.array([self.cell, self.length], np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(self.length - 1))
        return self._seen(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.cell = max(0, self.cell + (1 if action == 1 else -1))
        ended = self.cell == self.length - 1
        return self._seen(), 10.0 if ended else -1.0, ended, False, {}


class Loud(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Doubles the rewards."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        seen, reward, ended, truncated, info = self.env.step(action)
        return seen, 2 * float(reward), ended, truncated, info


for name, kwargs in (("Corridor-v0", {}), ("Pictures-v0", {"images": True})):
    if name not in gymnasium.registry:
        gymnasium.register(name, Corridor, max_episode_steps=7, kwargs=kwargs)
