"""A batch of Atari games in the order of pixel operations that Stable-Baselines3 uses."""

from __future__ import annotations

from typing import Any, cast

import ale_py
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.env import make_env
from ztw_rl.rl.atari.transition import AtariTransition
from ztw_rl.rl.batch import Flags, Frames, Observations, checked_actions


class WrappedEmulators:
    """N single games behind the interface of ``Emulators``, for any ``config.pixels``.

    With ``sb3`` pixels a game starts in Stable-Baselines3's order: 1 to ``noop_max`` emulator
    frames of no-op, then FIRE for one frame.

    They run one after the other: ALE's Python interface holds the interpreter's lock while it
    emulates, so threads would bring nothing.

    Args:
        config: Preprocessing.
        n_envs: Number of games N.
    """

    def __init__(self, config: AtariConfig, n_envs: int) -> None:
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._envs = [make_env(config) for _ in range(n_envs)]
        self.n_envs = n_envs
        self.observation_space = cast(Box, self._envs[0].observation_space)
        self.action_space = cast(Discrete, self._envs[0].action_space)
        self._observations: Observations = np.zeros(
            (n_envs, *self.observation_space.shape), np.uint8
        )
        self._actions = np.zeros(n_envs, np.int64)
        self.episode_frames: Frames = np.zeros(n_envs, np.int32)

    def reset(self, seeds: npt.NDArray[np.int64], which: Flags | None = None) -> Observations:
        """Start games anew; see ``EnvBatch.reset``."""
        chosen = np.arange(self.n_envs) if which is None else np.flatnonzero(which)
        observations: Observations = self._observations.copy()
        for i, seed in zip(chosen.tolist(), seeds.tolist(), strict=True):
            observations[i], info = self._envs[i].reset(seed=None if seed < 0 else seed)
            self.episode_frames[i] = info["episode_frame_number"]
        self._observations = observations
        return observations

    def send(self, actions: npt.NDArray[np.int64]) -> None:
        """Take the (N,) actions of the step that ``receive`` plays."""
        self._actions = checked_actions(actions, self.n_envs, self.action_space)

    def receive(self) -> AtariTransition:
        """Play the step that ``send`` began."""
        observations = np.empty_like(self._observations)
        rewards = np.zeros(self.n_envs, np.int32)
        lives = np.zeros(self.n_envs, np.int32)
        life_lost, terminated, truncated = np.zeros((3, self.n_envs), bool)
        info: dict[str, Any]
        for i, env in enumerate(self._envs):
            action = int(self._actions[i])
            observations[i], _, terminated[i], truncated[i], info = env.step(action)
            self.episode_frames[i] = info["episode_frame_number"]
            rewards[i], life_lost[i], lives[i] = (
                info["raw_reward"],
                info["life_lost"],
                info["lives"],
            )
        ended = terminated | truncated
        finals = observations
        if ended.any():
            finals = observations.copy()
            for i in np.flatnonzero(ended).tolist():
                observations[i], info = self._envs[i].reset()
                lives[i] = info["lives"]
                self.episode_frames[i] = info["episode_frame_number"]
        self._observations = observations
        return AtariTransition(observations, rewards, life_lost, ended, truncated, finals, lives)

    def step(self, actions: npt.NDArray[np.int64]) -> AtariTransition:
        """``send`` and ``receive``."""
        self.send(actions)
        return self.receive()

    def close(self) -> None:
        """Close the games."""
        for env in self._envs:
            env.close()
