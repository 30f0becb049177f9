"""A batch of gymnasium environments behind ``EnvBatch``.

Source: Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments"
(2024), whose vector environments it runs.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

from ztw_rl.errors import UserError
from ztw_rl.rl.batch import Flags, Frames, Observations, checked_actions
from ztw_rl.rl.gym.config import GymConfig

FOLLOWS_SEED = -1
"""As a seed: go on with the present random numbers."""


class GymTransition(NamedTuple):
    """What one step of N environments gave; see ``rl.batch.Transition``."""

    observations: Observations
    rewards: npt.NDArray[np.float64]
    ended: Flags
    truncated: Flags
    final_observations: Observations


class GymBatch:
    """N environments of one kind that step together, and begin anew when an episode ends.

    What Stable-Baselines3 takes for an image, and stacked uint8 of two dimensions, is seen as
    (C, H, W), all else as a vector of float32. What is stacked is zero before an episode's first
    observation, as in Stable-Baselines3's ``VecFrameStack``.

    Args:
        config: Which environment.
        n_envs: Number of environments N.

    Raises:
        UserError: There is no such environment or wrapper, or its spaces are others.
    """

    def __init__(self, config: GymConfig, n_envs: int) -> None:
        make = functools.partial(make_env, config)
        self.action_space, self.observation_space, self._see = _spaces(config, make)
        kind = SyncVectorEnv if config.vectorization == "sync" else AsyncVectorEnv
        self._envs = kind([make] * n_envs, autoreset_mode=AutoresetMode.SAME_STEP)
        self._is_async = isinstance(self._envs, AsyncVectorEnv)
        self.n_envs = n_envs
        self.episode_frames: Frames = np.zeros(n_envs, np.int32)
        self._actions: npt.NDArray[np.int64] | None = None

    def reset(self, seeds: npt.NDArray[np.int64], which: Flags | None = None) -> Observations:
        """Start episodes anew; see ``EnvBatch.reset``."""
        which = np.ones(self.n_envs, bool) if which is None else which
        given: list[int | None] = [None] * self.n_envs
        for i, seed in zip(np.flatnonzero(which), seeds.tolist(), strict=True):
            given[i] = None if seed == FOLLOWS_SEED else seed
        found, _ = self._envs.reset(seed=given, options={"reset_mask": which})
        self.episode_frames[which] = 0
        return self._see(found)

    def send(self, actions: npt.NDArray[np.int64]) -> None:
        """Begin a step; see ``EnvBatch.send``. Environments in this process step in ``receive``."""
        self._actions = checked_actions(actions, self.n_envs, self.action_space)
        if isinstance(self._envs, AsyncVectorEnv):
            self._envs.step_async(self._actions)

    def receive(self) -> GymTransition:
        """Wait for the step that ``send`` began."""
        assert self._actions is not None
        if isinstance(self._envs, AsyncVectorEnv):
            found, rewards, terminated, truncated, infos = self._envs.step_wait()
        else:
            found, rewards, terminated, truncated, infos = self._envs.step(self._actions)
        self._actions = None
        ended = terminated | truncated
        self.episode_frames = np.where(ended, 0, self.episode_frames + 1).astype(np.int32)
        observations = self._see(found)
        final = observations
        if ended.any():
            final = observations.copy()
            for i in np.flatnonzero(ended):
                final[i] = self._see(np.asarray(infos["final_obs"][i])[None])[0]
        # An episode that ends in the step at which time is up has ended.
        return GymTransition(observations, rewards, ended, truncated & ~terminated, final)

    def step(self, actions: npt.NDArray[np.int64]) -> GymTransition:
        """``send`` and ``receive``."""
        self.send(actions)
        return self.receive()

    def close(self) -> None:
        """Close the environments, once they have finished what was begun."""
        if self._actions is not None and self._is_async:
            self.receive()
        self._envs.close()


def make_env(config: GymConfig) -> gymnasium.Env[Any, Any]:
    """One environment, wrapped.

    Args:
        config: Which.

    Raises:
        UserError: There is no such environment or wrapper, or it cannot be made.
    """
    wrappers = [_wrapper(name) for name in config.wrappers]
    try:
        kwargs: dict[str, Any] = {**config.kwargs}
        env = gymnasium.make(config.id, disable_env_checker=True, **kwargs)
    except (gymnasium.error.NameNotFound, gymnasium.error.NamespaceNotFound):
        raise UserError(f"there is no environment '{config.id}'{_meant(config.id)}") from None
    # What an environment's own constructor raises, nobody knows.
    except Exception as error:
        raise UserError(f"environment '{config.id}' cannot be made: {_reason(error)}") from None
    for name, wrapper in zip(config.wrappers, wrappers, strict=True):
        try:
            env = wrapper(env)
        except Exception as error:
            raise UserError(
                f"wrapper '{name}' does not fit {config.id}: {_reason(error)}"
            ) from None
    if config.frame_stack > 1:
        env = FrameStackObservation(env, config.frame_stack, padding_type="zero")
    return env


def is_registered(name: str) -> bool:
    """Whether gymnasium knows an id, or a package is named that registers it (``module:Id``)."""
    return ":" in name or name in gymnasium.registry


def registered() -> list[str]:
    """Gymnasium's ids."""
    return list(gymnasium.registry)


def _meant(name: str) -> str:
    near = difflib.get_close_matches(name.rsplit(":", 1)[-1], registered(), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _reason(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _wrapper(name: str) -> Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]:
    """A wrapper's class."""
    module, _, attribute = name.partition(":")
    if not attribute:
        raise UserError(f"wrapper '{name}' must be module:Class, such as minigrid.wrappers:{name}")
    try:
        found = importlib.import_module(module)
    # Importing runs a module's own code.
    except Exception as error:
        raise UserError(f"wrapper '{name}' cannot be imported: {_reason(error)}") from None
    wrapper = getattr(found, attribute, None)
    if wrapper is None:
        near = difflib.get_close_matches(attribute, dir(found), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"wrapper '{name}': {module} has no '{attribute}'{hint}")
    found_wrapper: Callable[[Any], Any] = wrapper
    return found_wrapper


def _spaces(
    config: GymConfig, make: Callable[[], gymnasium.Env[Any, Any]]
) -> tuple[Discrete, Box, Callable[[Any], Observations]]:
    """Actions, observations as a network sees them, and what turns the one into the other.

    Raises:
        UserError: The environment's spaces are of other kinds.
    """
    env = make()
    actions, given = env.action_space, env.observation_space
    env.close()
    if not isinstance(actions, Discrete):
        raise UserError(
            f"{config.id} has actions {_kind(actions)}; only Discrete actions can be answered early"
        )
    if actions.start != 0:
        raise UserError(f"the actions of {config.id} must count from 0, not from {actions.start}")
    if not isinstance(given, Box):
        raise UserError(
            f"{config.id} has observations {_kind(given)}, but a network reads an array (Box); "
            "add a wrapper that makes one, such as gymnasium.wrappers:FlattenObservation"
        )
    see = _view(given, stacked=config.frame_stack > 1)
    seen = see(np.zeros((1, *given.shape), given.dtype))[0]
    if seen.dtype == np.uint8:
        return actions, Box(0, 255, seen.shape, np.uint8), see
    return actions, Box(-np.inf, np.inf, seen.shape, np.float32), see


def _view(space: Box, *, stacked: bool) -> Callable[[Any], Observations]:
    """From (N, …) observations of a space to what a network sees of them.

    Args:
        space: Of one observation.
        stacked: Whether its first axis are the observations of a stack.
    """
    single = Box(space.low[0], space.high[0], dtype=space.dtype.type) if stacked else space
    if stacked and single.dtype == np.uint8 and len(single.shape) == 2:
        return np.ascontiguousarray
    if not is_image_space(single):
        return lambda x: np.ascontiguousarray(x.reshape(len(x), -1), np.float32)
    first = is_image_space_channels_first(single)

    def image(x: Any) -> Observations:
        channels_first = x if first else np.moveaxis(x, -1, -3)
        height, width = channels_first.shape[-2:]
        return np.ascontiguousarray(channels_first.reshape(len(x), -1, height, width))

    return image


def _kind(space: Space[Any]) -> str:
    """A space in a few words."""
    return str(space).splitlines()[0][:60]
