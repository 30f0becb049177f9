"""Our PPO learns as stock SB3's does: curves of ten seeds on pictures whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.ppo import stock_ppo
from ztw_rl.core.device import exact_device
from ztw_rl.rl.atari import vec_env
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.vec_env import AtariVecEnv
from ztw_rl.rl.config import PPOConfig
from ztw_rl.rl.ppo import build_ppo

N_SEEDS, N_ENVS, N_ACTIONS = 10, 8, 3
CONFIG = PPOConfig(
    n_timesteps=1024, n_envs=N_ENVS, n_steps=16, batch_size=64, learning_rate=5e-4, gamma=0.0
)


class Curve(BaseCallback):
    """Mean reward of each rollout, 0 … 1."""

    def __init__(self):
        super().__init__()
        self.points = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.points.append(float(self.model.rollout_buffer.rewards.mean()))


def curves(build, first_seed, device):
    """(N_SEEDS, updates) of one learner; each seed has its own games and weights."""
    found = []
    for seed in range(first_seed, first_seed + N_SEEDS):
        env = AtariVecEnv(AtariConfig(), N_ENVS, seed=100 * seed)
        curve = Curve()
        model = build(env, CONFIG, seed, device)
        model.learn(CONFIG.n_timesteps, callback=curve)
        found.append(curve.points)
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_the_curves_overlap(patch_games, monkeypatch, name):
    def games(config, n_envs, n_threads):
        return patch_games(n_envs, n_actions=N_ACTIONS, size=84)

    monkeypatch.setattr(vec_env, "make_emulators", games)
    # Other seeds: two samples of what training may give, not twice the same one.
    device = exact_device(name)
    ours, stock = curves(build_ppo, 0, device), curves(stock_ppo, N_SEEDS, device)
    assert ours.shape == stock.shape == (N_SEEDS, 8)
    # Both begin at random play's third, and both learn.
    for found in (ours, stock):
        assert abs(found[:, 0].mean() - 1 / N_ACTIONS) < 0.1
        assert found[:, -1].mean() > 0.6
    error = np.sqrt((ours.var(axis=0, ddof=1) + stock.var(axis=0, ddof=1)) / N_SEEDS)
    assert (np.abs(ours.mean(axis=0) - stock.mean(axis=0)) <= 4 * error).all()
