"""What one step of a batch of Atari games gave."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ztw_rl.rl.batch import EnvBatch, Flags, Observations

FIRE = 1
"""The action that starts a game or a life, where a game has it."""


class AtariTransition(NamedTuple):
    """What one step of N games gave; see ``rl.batch.Transition``."""

    observations: Observations
    """(N, frame_stack, screen_size, screen_size), uint8; a new game's first where one ended."""
    rewards: npt.NDArray[np.int32]
    """(N,) raw points."""
    life_lost: Flags
    """(N,) a life was lost and the game goes on."""
    ended: Flags
    """(N,) the game is over or was truncated."""
    truncated: Flags
    """(N,) the game was cut off at ``max_frames``; implies ``ended``."""
    final_observations: Observations
    """As ``observations``, but the finished game's last where one ended."""
    lives: npt.NDArray[np.int32]
    """(N,) lives left, a new game's where one ended; some games always report 0 or 1."""


class AtariBatch(EnvBatch, Protocol):
    """N Atari games that step together, whatever renders them; see ``make_emulators``."""

    def receive(self) -> AtariTransition:
        """See ``EnvBatch``."""
        ...

    def step(self, actions: npt.NDArray[np.int64]) -> AtariTransition:
        """See ``EnvBatch``."""
        ...
