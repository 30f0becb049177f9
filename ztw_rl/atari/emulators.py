"""A batch of Atari games on ALE's own threads.

Source of the preprocessing: Machado et al., "Revisiting the Arcade Learning Environment" (2018)
for sticky actions; Mnih et al., "Human-level control" (2015) for the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import ale_py
import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from ztw_rl.atari.config import AtariConfig

Observations = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

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
    """(N,) lives left; some games always report 0 or 1."""


class Emulators:
    """N games of one ROM that step together, with raw rewards and automatic restart.

    FIRE is pressed for one frame when a game starts. After a lost life it takes the place of
    the next action, because several games (Breakout) wait for it; the agent is not told, just as
    it is not told of a sticky action.

    A game over is recognised by the emulator's episode counter falling back, since ALE reports
    a lost life and a game over alike, and some games report no lives at all.

    Args:
        config: Preprocessing; ``pixels`` must be ``ale``.
        n_envs: Number of games N.
        n_threads: Emulation threads; 0 takes one per core.
    """

    def __init__(self, config: AtariConfig, n_envs: int, n_threads: int = 0) -> None:
        if config.pixels != "ale":
            raise ValueError("ALE's vector environment renders pixels='ale' only")
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._env = AtariVectorEnv(
            config.game,
            n_envs,
            num_threads=n_threads,
            max_num_frames_per_episode=config.max_frames,
            repeat_action_probability=config.repeat_action_probability,
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=config.screen_size,
            img_width=config.screen_size,
            stack_num=config.frame_stack,
            frameskip=config.frame_skip,
            noop_max=0,
            episodic_life=False,
            life_loss_info=True,
            reward_clipping=False,
            use_fire_reset=True,
        )
        self.n_envs = n_envs
        self.observation_space = self._env.single_observation_space
        self.action_space = self._env.single_action_space
        actions = self._env.ale.get_action_set()
        self._fires = len(actions) > FIRE and actions[FIRE] == ale_py.Action.FIRE
        self._fire_next = np.zeros(n_envs, bool)
        self._episode_frame = np.zeros(n_envs, np.int32)

    def reset(
        self, seeds: npt.NDArray[np.int64], which: Flags | None = None
    ) -> Observations:
        """Start games anew.

        Args:
            seeds: One seed per game that starts.
            which: (N,) games to start; all by default. The others are left as they are.

        Returns:
            (N, frame_stack, screen_size, screen_size), uint8: everyone's current observation.
        """
        which = np.ones(self.n_envs, bool) if which is None else which
        observations, info = self._env.reset(
            seed=np.asarray(seeds, np.int64), options={"reset_mask": which}
        )
        self._fire_next[which] = False
        self._episode_frame = info["episode_frame_number"].copy()
        return observations

    def send(self, actions: npt.NDArray[np.int64]) -> None:
        """Begin a step with (N,) actions and return while the emulators work."""
        if self._fires:
            actions = np.where(self._fire_next, FIRE, actions)
        self._env.send(np.ascontiguousarray(actions, np.int64))

    def receive(self) -> Transition:
        """Wait for the step that ``send`` began."""
        observations, rewards, terminated, truncated, info = self._env.recv()
        frame = info["episode_frame_number"]
        game_over = (terminated | truncated) & (frame <= self._episode_frame)
        life_lost = terminated & ~game_over
        self._fire_next = life_lost
        self._episode_frame = frame.copy()
        return Transition(
            observations=observations,
            rewards=rewards,
            life_lost=life_lost,
            game_over=game_over,
            truncated=truncated & game_over,
            final_observations=info.get("final_obs", observations),
            lives=info["lives"],
        )

    def step(self, actions: npt.NDArray[np.int64]) -> Transition:
        """``send`` and ``receive``."""
        self.send(actions)
        return self.receive()

    def close(self) -> None:
        """Stop the emulation threads."""
        self._env.close()
