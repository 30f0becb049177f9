"""A batch of Atari games on ALE's own threads.

Source of the preprocessing: Machado et al., "Revisiting the Arcade Learning Environment" (2018)
for sticky actions; Mnih et al., "Human-level control" (2015) for the rest.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import ale_py
import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

from ztw_rl.rl.atari.config import AtariConfig, rom_id
from ztw_rl.rl.batch import EnvBatch, Flags, Frames, Observations, checked_actions

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


class Emulators:
    """N games of one ROM that step together, with raw rewards and automatic restart.

    A game starts with fewer than ``noop_max`` emulator frames, FIRE in the first of them and no-ops
    in the others. After a lost life FIRE takes the place of the next action, because several games
    (Breakout) wait for it; the agent is not told, just as it is not told of a sticky action.

    A game over is recognised by the emulator's episode counter, which does not go on, since ALE
    reports a lost life and a game over alike, and some games report no lives at all.

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
            rom_id(config.game),
            n_envs,
            num_threads=n_threads,
            max_num_frames_per_episode=config.max_frames,
            repeat_action_probability=config.repeat_action_probability,
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=config.screen_size,
            img_width=config.screen_size,
            stack_num=config.frame_stack,
            frameskip=config.frame_skip,
            noop_max=config.noop_max,
            episodic_life=False,
            life_loss_info=True,
            reward_clipping=False,
            use_fire_reset=True,
        )
        self.n_envs = n_envs
        self._frame_skip = config.frame_skip
        actions = self._env.ale.get_action_set()
        shape = (config.frame_stack, config.screen_size, config.screen_size)
        self.observation_space: Box = Box(0, 255, shape, np.uint8)
        self.action_space = Discrete(len(actions))
        self._fires = len(actions) > FIRE and actions[FIRE] == ale_py.Action.FIRE
        self._fire_next = np.zeros(n_envs, bool)
        self._is_emulating = False
        self.episode_frames: Frames = np.zeros(n_envs, np.int32)

    def reset(self, seeds: npt.NDArray[np.int64], which: Flags | None = None) -> Observations:
        """Start games anew; see ``EnvBatch.reset``."""
        which = np.ones(self.n_envs, bool) if which is None else which
        observations: Observations
        observations, info = self._env.reset(
            seed=np.asarray(seeds, np.int64), options={"reset_mask": which}
        )
        self._fire_next[which] = False
        self.episode_frames = info["episode_frame_number"].copy()
        return observations

    def send(self, actions: npt.NDArray[np.int64]) -> None:
        """Begin a step with (N,) actions and return while the emulators work."""
        actions = checked_actions(actions, self.n_envs, self.action_space)
        if self._fires:
            actions = np.where(self._fire_next, FIRE, actions)
        self._env.send(actions)
        self._is_emulating = True

    def receive(self) -> AtariTransition:
        """Wait for the step that ``send`` began."""
        self._is_emulating = False
        observations, rewards, terminated, truncated, info = self._env.recv()
        frame = info["episode_frame_number"]
        goes_on = frame == self.episode_frames + self._frame_skip
        ended = truncated | (terminated & ~goes_on)
        life_lost = terminated & ~ended
        self._fire_next = life_lost
        self.episode_frames = frame.copy()
        final_observations = observations
        if ended.any():
            # ALE leaves the final observations of the other games uninitialised.
            final_observations = observations.copy()
            final_observations[ended] = info["final_obs"][ended]
        return AtariTransition(
            observations=observations,
            rewards=rewards,
            life_lost=life_lost,
            ended=ended,
            truncated=truncated,
            final_observations=final_observations,
            lives=info["lives"],
        )

    def step(self, actions: npt.NDArray[np.int64]) -> AtariTransition:
        """``send`` and ``receive``."""
        self.send(actions)
        return self.receive()

    def close(self) -> None:
        """Stop the emulation threads, once they have finished what was begun."""
        if self._is_emulating:
            self.receive()
        self._env.close()
        # ALE joins its threads when its object is freed; ``close`` alone does not.
        self._env.__dict__.pop("ale", None)
