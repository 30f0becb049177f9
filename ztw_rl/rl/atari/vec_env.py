"""The learner's view of a batch of Atari games: a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvObs, VecEnvStepReturn

from ztw_rl.rl.atari.batches import make_emulators
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.env import N_SEEDS


class AtariVecEnv(VecEnv):
    """N games with clipped rewards and, if configured, episodes that end with each life.

    ``infos[i]`` holds ``raw_reward``, and ``lives`` as ``Transition`` has them. When a whole game
    is over it also holds ``episode`` as SB3's ``Monitor`` gives it (raw points, steps over all
    lives, seconds), so that SB3 logs the return of full games. Observations are
    (N, frame_stack, size, size), uint8.

    Args:
        config: Preprocessing.
        n_envs: Number of games.
        seed: The first reset starts game i with ``seed + i``, a later one goes on with the random
            numbers where they are; ``VecEnv.seed`` before it sets new ones.
        n_threads: Emulation threads; 0 takes one per core.
    """

    def __init__(self, config: AtariConfig, n_envs: int, seed: int = 0, n_threads: int = 0) -> None:
        self._config = config
        self.emulators = make_emulators(config, n_envs, n_threads)
        self.render_mode = None
        super().__init__(n_envs, self.emulators.observation_space, self.emulators.action_space)
        self.seed(seed)
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, int)
        self._began = time.monotonic()

    def reset(self) -> VecEnvObs:
        """Start every game; see ``VecEnv.reset``."""
        given = (-1 if seed is None else seed % N_SEEDS for seed in self._seeds)
        seeds = np.array(list(given), np.int64)
        self._reset_seeds()
        self._returns[:] = 0
        self._lengths[:] = 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self.emulators.reset(seeds)

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step; see ``VecEnv.step_async``."""
        self.emulators.send(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish a step; see ``VecEnv.step_wait``."""
        t = self.emulators.receive()
        self._returns += t.rewards
        self._lengths += 1
        dones = t.ended | t.life_lost if self._config.terminal_on_life_loss else t.ended
        infos: list[dict[str, Any]] = [
            {"raw_reward": int(r), "lives": int(n)} for r, n in zip(t.rewards, t.lives, strict=True)
        ]
        for i in np.flatnonzero(dones):
            infos[i]["terminal_observation"] = t.final_observations[i]
            infos[i]["TimeLimit.truncated"] = bool(t.truncated[i])
        for i in np.flatnonzero(t.ended):
            infos[i]["episode"] = {
                "r": float(self._returns[i]),
                "l": int(self._lengths[i]),
                "t": round(time.monotonic() - self._began, 6),
            }
            self._returns[i] = 0
            self._lengths[i] = 0
        rewards = np.sign(t.rewards) if self._config.clip_reward else t.rewards
        return t.observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Stop the emulation threads."""
        self.emulators.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The batch's own attribute, once per game; see ``VecEnv.get_attr``."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not supported: the games share one object."""
        raise NotImplementedError("the games of AtariVecEnv have no attributes of their own")

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Not supported: the games share one object."""
        raise NotImplementedError("the games of AtariVecEnv have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """No ``gym.Wrapper`` is ever inside; see ``VecEnv.env_is_wrapped``.

        ``Monitor`` is answered with True: ``infos`` carry its ``episode`` entry.
        """
        from stable_baselines3.common.monitor import Monitor

        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
