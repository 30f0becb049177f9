"""One Atari game as a gymnasium environment, and a batch of such: to use, and as a reference.

With the same seed and actions it gives the pixels, rewards and lives of
``ztw_rl.rl.atari.emulators.Emulators`` exactly, sticky actions included.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import ale_py
import gymnasium as gym
import numpy as np
import numpy.typing as npt
from ale_py.env import AtariEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import (
    AtariPreprocessing,
    FrameStackObservation,
    ReshapeObservation,
    TimeLimit,
)
from stable_baselines3.common.atari_wrappers import (
    ClipRewardEnv,
    MaxAndSkipEnv,
    NoopResetEnv,
    WarpFrame,
)

from ztw_rl.rl.atari.config import AtariConfig, rom_id
from ztw_rl.rl.atari.emulators import FIRE, AtariTransition
from ztw_rl.rl.batch import N_SEEDS, Flags, Frames, Observations, checked_actions

Observation = npt.NDArray[np.uint8]
Info = dict[str, Any]
Env = gym.Env[Observation, int]
RenderMode = Literal["human", "rgb_array"]


def make_env(
    config: AtariConfig, *, training: bool = False, render_mode: RenderMode | None = None
) -> Env:
    """One game, preprocessed as ``config`` says.

    Observations are (frame_stack, screen_size, screen_size), uint8, newest last; the stack is
    black before a game's first frame. ``info`` holds ``raw_reward`` (points), ``lives`` (some
    games always report 0 or 1) and ``life_lost`` (a life was lost and the game goes on).

    Args:
        config: Preprocessing.
        training: Give the learner's view: rewards clipped and episodes that end with each life,
            as far as ``config`` has it. Otherwise raw points and whole games.
        render_mode: ``human`` opens a window; ``rgb_array`` lets ``render`` return frames.

    Raises:
        UserError: ALE has no such game.
    """
    env: Any = _Emulator(
        rom_id(config.game),
        obs_type="grayscale" if config.pixels == "ale" else "rgb",
        frameskip=1,
        repeat_action_probability=config.repeat_action_probability,
        render_mode=render_mode,
    )
    if config.pixels == "ale":
        env = AleStart(env, config.noop_max)
    else:
        env = Sb3Start(NoopResetEnv(env, config.noop_max) if config.noop_max else env)
    # Below the frame skip a step is one emulator frame; the frames of the start do not count.
    env = TimeLimit(env, config.max_frames)
    if config.pixels == "ale":
        env = AtariPreprocessing(
            env, noop_max=0, frame_skip=config.frame_skip, screen_size=config.screen_size
        )
    else:
        env = MaxAndSkipEnv(env, config.frame_skip)
        env = WarpFrame(env, config.screen_size, config.screen_size)
        env = ReshapeObservation(env, (config.screen_size, config.screen_size))
    env = FrameStackObservation(env, config.frame_stack, padding_type="zero")
    env = LifeLoss(env)
    if training and config.terminal_on_life_loss:
        env = LifeEpisodes(env)
    if training and config.clip_reward:
        env = ClipRewardEnv(env)
    chain: Env = env
    return chain


class _Emulator(AtariEnv):
    """ALE's environment, with the seed passed to the emulator as ALE's vector env does.

    ``AtariEnv`` hashes it first, so that equal seeds would give other sticky actions.
    """

    def seed_game(self, seed: int | None = None) -> tuple[int, int]:
        seeds: tuple[int, int] = super().seed_game(seed)
        if seed is None:
            return seeds
        known = seed % N_SEEDS
        self.ale.setInt("random_seed", known)
        return seeds[0], known


class Sb3Start(gym.Wrapper[Observation, int, Observation, int]):
    """Presses FIRE for one emulator frame when a game starts, if the game has FIRE.

    Stable-Baselines3's order: its no-ops (``NoopResetEnv``) come before FIRE.

    Args:
        env: Steps by single frames.
    """

    def __init__(self, env: gym.Env[Observation, int]) -> None:
        super().__init__(env)
        self._fire = _fire_action(env)

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[Observation, Info]:
        """Start a game; see ``gym.Env.reset``."""
        observation, info = self.env.reset(seed=seed, options=options)
        if self._fire is None:
            return observation, info
        observation, _, _, _, fired = self.env.step(self._fire)
        return observation, {**info, **fired}


class AleStart(gym.Wrapper[Observation, int, Observation, int]):
    """Starts games as ALE's vector environment does.

    A number of emulator frames is drawn evenly from 0 to ``noop_max - 1``. FIRE is pressed in the
    first of them, if the game has FIRE, and always for one frame; no-ops fill the rest. The draw
    repeats that of C++ (``std::mt19937``, then ``std::uniform_int_distribution`` as in libstdc++,
    which is Lemire's method), so that equal seeds give equal starts.

    Source: Lemire, "Fast random integer generation in an interval" (2019).

    Args:
        env: Steps by single frames.
        noop_max: Frames; 0 leaves nothing but FIRE.
    """

    def __init__(self, env: gym.Env[Observation, int], noop_max: int) -> None:
        super().__init__(env)
        self._fire = _fire_action(env)
        self._noop_max = noop_max
        self._random = np.random.RandomState()

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[Observation, Info]:
        """Start a game; see ``gym.Env.reset``."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._random = np.random.RandomState(seed % N_SEEDS)
        n_frames = self._draw() if self._noop_max else 0
        actions = [0] * n_frames
        if self._fire is not None:
            actions[:1] = [self._fire]
        for action in actions:
            observation, _, terminated, truncated, last = self.env.step(action)
            info = {**info, **last}
            if terminated or truncated:
                observation, info = self.env.reset(options=options)
        return observation, info

    def _draw(self) -> int:
        while True:
            product = self._noop_max * int(self._random.randint(2**32, dtype=np.uint32))
            if product % 2**32 >= 2**32 % self._noop_max:
                return product >> 32


def _fire_action(env: gym.Env[Observation, int]) -> int | None:
    """The action that is FIRE; None in games without it."""
    meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
    return int(meanings.index("FIRE")) if "FIRE" in meanings else None


class LifeLoss(gym.Wrapper[Observation, int, Observation, int]):
    """Reports lost lives, and then replaces the next action by FIRE.

    Several games wait for FIRE after a lost life. It is pressed where action 1 is FIRE, and the
    agent is not told, just as it is not told of a sticky action.

    Args:
        env: Reports ``lives`` in its ``info``.
    """

    def __init__(self, env: gym.Env[Observation, int]) -> None:
        super().__init__(env)
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        self._fires = meanings[FIRE : FIRE + 1] == ["FIRE"]
        self._life_lost = False
        self._lives = 0

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[Observation, Info]:
        """Start a game; see ``gym.Env.reset``."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._life_lost = False
        self._lives = info["lives"]
        return observation, {**info, "raw_reward": 0, "life_lost": False}

    def step(self, action: int) -> tuple[Observation, float, bool, bool, Info]:
        """Play one step; see ``gym.Env.step``."""
        if self._life_lost and self._fires:
            action = FIRE
        observation, reward, terminated, truncated, info = self.env.step(action)
        # Some games stay at 0 lives for a while before they are over.
        fewer = 0 < info["lives"] < self._lives
        self._life_lost = fewer and not (terminated or truncated)
        self._lives = info["lives"]
        info = {**info, "raw_reward": int(float(reward)), "life_lost": self._life_lost}
        # A life lost in the last frame ends a game, as ALE has it, rather than cutting it off.
        terminated = terminated or (truncated and fewer)
        return observation, float(reward), terminated, truncated and not terminated, info


class LifeEpisodes(gym.Wrapper[Observation, int, Observation, int]):
    """Ends the learner's episode with each life while the game goes on.

    ``reset`` after a lost life returns the observation that the learner already has, without a
    step of the emulator. With a seed, or at any other time, it starts a new game.

    Args:
        env: Reports ``life_lost`` in its ``info``.
    """

    def __init__(self, env: gym.Env[Observation, int]) -> None:
        super().__init__(env)
        self._goes_on: tuple[Observation, Info] | None = None

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[Observation, Info]:
        """Start an episode; see ``gym.Env.reset``."""
        current, self._goes_on = self._goes_on, None
        if current is None or seed is not None:
            return self.env.reset(seed=seed, options=options)
        return current

    def step(self, action: int) -> tuple[Observation, float, bool, bool, Info]:
        """Play one step; see ``gym.Env.step``."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._goes_on = (observation, info) if info["life_lost"] else None
        return observation, float(reward), terminated or info["life_lost"], truncated, info


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
        self.observation_space = cast("Box", self._envs[0].observation_space)
        self.action_space = cast("Discrete", self._envs[0].action_space)
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
