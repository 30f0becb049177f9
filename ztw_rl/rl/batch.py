"""What a batch of environments takes and gives, whatever is behind it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

Observations = npt.NDArray[Any]
"""(N, C, H, W) uint8 images, or (N, D) float32 vectors."""
Flags = npt.NDArray[np.bool_]
Frames = npt.NDArray[np.int32]


N_SEEDS = 2**31
"""Simulators tell seeds below this apart. Larger ones, which SB3 allows, begin anew."""


class Transition(Protocol):
    """What one step of N environments gave. One that ended has already begun anew."""

    @property
    def observations(self) -> Observations:
        """(N, …), a new episode's first where one ended."""
        ...

    @property
    def rewards(self) -> npt.NDArray[Any]:
        """(N,) as the environment counts them."""
        ...

    @property
    def ended(self) -> Flags:
        """(N,) whether an episode ended or was cut off."""
        ...

    @property
    def truncated(self) -> Flags:
        """(N,) whether it was cut off; implies ``ended``."""
        ...

    @property
    def final_observations(self) -> Observations:
        """As ``observations``, but an episode's last where one ended."""
        ...


class EnvBatch(Protocol):
    """N environments that step together."""

    n_envs: int
    observation_space: Box
    action_space: Discrete
    episode_frames: Frames
    """(N,) steps of the simulator in each episode so far; after ``reset``, those of its start."""

    def reset(self, seeds: npt.NDArray[np.int64], which: Flags | None = None) -> Observations:
        """Start episodes anew.

        Args:
            seeds: One seed per episode that starts; -1 goes on with its present random numbers.
            which: (N,) environments to start; all by default. The others are left as they are.

        Returns:
            (N, …) everyone's current observation.
        """
        ...

    def send(self, actions: npt.NDArray[np.int64]) -> None:
        """Begin a step with (N,) actions.

        Raises:
            ValueError: An action that there is not, or not one per environment.
        """
        ...

    def receive(self) -> Transition:
        """Wait for the step that ``send`` began."""
        ...

    def step(self, actions: npt.NDArray[np.int64]) -> Transition:
        """``send`` and ``receive``."""
        ...

    def close(self) -> None:
        """Give memory and threads back."""
        ...


def checked_actions(
    actions: npt.NDArray[np.int64], n_envs: int, action_space: Discrete
) -> npt.NDArray[np.int64]:
    """The (N,) actions as contiguous int64; some simulators wait for ever after a wrong one.

    Raises:
        ValueError: An action that there is not, or not one per environment.
    """
    actions = np.ascontiguousarray(actions, np.int64)
    if actions.shape != (n_envs,):
        raise ValueError(f"expected {n_envs} actions, one per environment, got {actions.shape}")
    if actions.min() < 0 or actions.max() >= action_space.n:
        raise ValueError(f"actions must be 0 to {action_space.n - 1}, got {actions.tolist()}")
    return actions
