"""What a batch of Atari games takes and gives, whatever renders it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

Observations = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
Frames = npt.NDArray[np.int32]

FIRE = 1


class Transition(NamedTuple):
    """What one step of N games gave. A game that ended has already begun anew."""

    observations: Observations
    """(N, frame_stack, screen_size, screen_size), uint8; a new game's first where one ended."""
    rewards: npt.NDArray[np.int32]
    """(N,) raw points."""
    life_lost: Flags
    """(N,) a life was lost and the game goes on."""
    game_over: Flags
    """(N,) the game ended or was truncated."""
    truncated: Flags
    """(N,) the game was cut off at ``max_frames``; implies ``game_over``."""
    final_observations: Observations
    """As ``observations``, but the finished game's last where one ended."""
    lives: npt.NDArray[np.int32]
    """(N,) lives left, a new game's where one ended; some games always report 0 or 1."""


class EmulatorBatch(Protocol):
    """N games that step together, whatever renders them; see ``make_emulators``."""

    n_envs: int
    observation_space: Box
    action_space: Discrete
    episode_frames: Frames
    """(N,) emulator frames of each game so far; after ``reset``, those of its start."""

    def reset(self, seeds: npt.NDArray[np.int64], which: Flags | None = None) -> Observations:
        """Start games anew.

        Args:
            seeds: One seed per game that starts; -1 goes on with its present random numbers.
            which: (N,) games to start; all by default. The others are left as they are.

        Returns:
            (N, frame_stack, screen_size, screen_size), uint8: everyone's current observation.
        """
        ...

    def send(self, actions: npt.NDArray[np.int64]) -> None:
        """Begin a step with (N,) actions.

        Raises:
            ValueError: An action that the game does not have, or not one per game.
        """
        ...

    def receive(self) -> Transition:
        """Wait for the step that ``send`` began."""
        ...

    def step(self, actions: npt.NDArray[np.int64]) -> Transition:
        """``send`` and ``receive``."""
        ...

    def close(self) -> None:
        """Give the emulators' memory and threads back."""
        ...


def checked_actions(
    actions: npt.NDArray[np.int64], n_envs: int, action_space: Discrete
) -> npt.NDArray[np.int64]:
    """The (N,) actions as contiguous int64.

    ALE's vector environment waits for ever after an action that does not exist.

    Raises:
        ValueError: An action that the game does not have, or not one per game.
    """
    actions = np.ascontiguousarray(actions, np.int64)
    if actions.shape != (n_envs,):
        raise ValueError(f"expected one action for each of {n_envs} games, got {actions.shape}")
    if actions.min() < 0 or actions.max() >= action_space.n:
        raise ValueError(f"actions must be 0 to {action_space.n - 1}, got {actions.tolist()}")
    return actions
