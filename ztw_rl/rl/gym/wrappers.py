"""Wrappers that recipes can name."""

from __future__ import annotations

from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from ztw_rl.errors import UserError

SIDE = 84


class Screen84(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The only picture of a ``Dict`` observation, 84×84 pixels in its own colours.

    Args:
        env: The environment.

    Raises:
        UserError: It shows no picture, or several.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        space = env.observation_space
        pictures = [
            name
            for name, part in (space.items() if isinstance(space, Dict) else ())
            if isinstance(part, Box) and part.dtype == np.uint8 and len(part.shape) == 3
        ]
        if len(pictures) != 1:
            raise UserError(f"Screen84 needs one picture among the observations, not {pictures}")
        (self._name,) = pictures
        self.observation_space = Box(0, 255, (SIDE, SIDE, 3), np.uint8)

    def observation(self, observation: Any) -> Any:
        """(84, 84, 3) uint8."""
        screen = np.asarray(observation[self._name])
        return cv2.resize(screen, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
