"""The learner's view of a batch of environments: a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvObs, VecEnvStepReturn

from ztw_rl.rl.batch import N_SEEDS, EnvBatch, Flags, Transition


class BatchVecEnv(VecEnv):
    """N environments as they are; where an episode ends, the next has already begun.

    Where an episode has ended, ``infos[i]`` holds ``episode`` as SB3's ``Monitor`` gives it
    (rewards, steps, seconds), ``terminal_observation`` and ``TimeLimit.truncated``.

    Args:
        batch: The environments.
        seed: The first reset starts environment i with ``seed + i``, a later one goes on with the
            random numbers where they are; ``VecEnv.seed`` before it sets new ones.
        reward_scale: The learner's rewards are multiplied by it; ``episode`` counts them as they
            are.
    """

    def __init__(self, batch: EnvBatch, seed: int = 0, reward_scale: float = 1.0) -> None:
        self.batch = batch
        self._reward_scale = np.float32(reward_scale)
        self.render_mode = None
        super().__init__(batch.n_envs, batch.observation_space, batch.action_space)
        self.seed(seed)
        self._returns = np.zeros(batch.n_envs)
        self._lengths = np.zeros(batch.n_envs, int)
        self._began = time.monotonic()

    def learns_from(self, t: Any) -> tuple[npt.NDArray[np.float32], Flags, list[dict[str, Any]]]:
        """What the learner is told of a step: rewards, which of its episodes are over, and infos.

        Args:
            t: The batch's transition.

        Returns:
            (N,), (N,) and N.
        """
        return t.rewards.astype(np.float32), t.ended, [{} for _ in range(self.num_envs)]

    def reset(self) -> VecEnvObs:
        """Start every episode; see ``VecEnv.reset``."""
        given = (-1 if seed is None else seed % N_SEEDS for seed in self._seeds)
        seeds = np.array(list(given), np.int64)
        self._reset_seeds()
        self._returns[:] = 0
        self._lengths[:] = 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self.batch.reset(seeds)

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step; see ``VecEnv.step_async``."""
        self.batch.send(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish a step; see ``VecEnv.step_wait``."""
        t: Transition = self.batch.receive()
        self._returns += t.rewards
        self._lengths += 1
        rewards, dones, infos = self.learns_from(t)
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
        return t.observations, rewards * self._reward_scale, dones, infos

    def close(self) -> None:
        """Give memory, threads and processes back."""
        self.batch.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The batch's own attribute, once per environment; see ``VecEnv.get_attr``."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not supported: the environments share one object."""
        raise NotImplementedError("the environments of a batch have no attributes of their own")

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Not supported: the environments share one object."""
        raise NotImplementedError("the environments of a batch have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """No ``gym.Wrapper`` is ever seen; see ``VecEnv.env_is_wrapped``.

        ``Monitor`` is answered with True: ``infos`` carry its ``episode`` entry.
        """
        from stable_baselines3.common.monitor import Monitor

        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
