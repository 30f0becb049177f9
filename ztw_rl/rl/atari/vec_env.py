"""The learner's view of a batch of Atari games: a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ztw_rl.rl.atari.batches import make_emulators
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.batch import Flags
from ztw_rl.rl.vec_env import BatchVecEnv


class AtariVecEnv(BatchVecEnv):
    """N games with clipped rewards and, if configured, episodes that end with each life.

    ``infos[i]`` also holds ``raw_reward``, and ``lives`` as ``AtariTransition`` has them;
    ``episode`` is of a whole game: raw points, steps over all lives. Observations are
    (N, frame_stack, size, size), uint8.

    Args:
        config: Preprocessing.
        n_envs: Number of games.
        seed: See ``BatchVecEnv``.
        n_threads: Emulation threads; 0 takes one per core.
        reward_scale: See ``BatchVecEnv``; of clipped rewards, if they are clipped.
    """

    def __init__(
        self,
        config: AtariConfig,
        n_envs: int,
        seed: int = 0,
        n_threads: int = 0,
        reward_scale: float = 1.0,
    ) -> None:
        self._config = config
        super().__init__(make_emulators(config, n_envs, n_threads), seed, reward_scale)

    def learns_from(self, t: Any) -> tuple[npt.NDArray[np.float32], Flags, list[dict[str, Any]]]:
        """See ``BatchVecEnv``."""
        dones = t.ended | t.life_lost if self._config.terminal_on_life_loss else t.ended
        rewards = np.sign(t.rewards) if self._config.clip_reward else t.rewards
        infos = [
            {"raw_reward": int(r), "lives": int(n)} for r, n in zip(t.rewards, t.lives, strict=True)
        ]
        return rewards.astype(np.float32), dones, infos
