from __future__ import annotations

from collections.abc import Callable

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from ztw_rl.atari.config import PPOConfig


def _stock_ppo(env: VecEnv, config: PPOConfig, seed: int) -> PPO:
    return PPO(
        "CnnPolicy",
        env,
        learning_rate=config.learning_rate,
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.ent_coef,
        vf_coef=config.vf_coef,
        max_grad_norm=config.max_grad_norm,
        seed=seed,
        device="cpu",
    )


@pytest.fixture
def stock_ppo() -> Callable[[VecEnv, PPOConfig, int], PPO]:
    """SB3's PPO as it comes, with the hyperparameters of a configuration."""
    return _stock_ppo
