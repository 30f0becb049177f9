"""The rollout of our PPO is SB3's; tests/atari/test_ppo.py compares the updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger

from benchmarks.ppo import stock_ppo
from ztw_rl.atari.config import AtariConfig, PPOConfig
from ztw_rl.atari.fast_ppo import FastPPO
from ztw_rl.atari.policy import ChannelsLastCnnPolicy, UncheckedCategorical
from ztw_rl.atari.ppo import build_ppo
from ztw_rl.atari.vec_env import AtariVecEnv

CPU = torch.device("cpu")
CONFIG = PPOConfig(n_timesteps=32, n_envs=2, n_steps=8, batch_size=8, n_epochs=2)


@pytest.fixture
def games():
    """Makes equal games, as often as asked; each is truncated after six steps."""
    made = []

    def make() -> AtariVecEnv:
        made.append(AtariVecEnv(AtariConfig(max_frames=24), CONFIG.n_envs, n_threads=1))
        return made[-1]

    yield make
    for env in made:
        env.close()


def rollout(model) -> RolloutBuffer:
    model.set_logger(Logger(None, []))
    model.set_random_seed(1)
    _, callback = model._setup_learn(CONFIG.n_timesteps)
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, CONFIG.n_steps)
    assert model.num_timesteps == CONFIG.n_steps * CONFIG.n_envs
    return model.rollout_buffer


def test_a_rollout_equals_stock_ppos(games):
    """Same seeds give the same actions, rewards and targets, truncated games included."""
    ours = rollout(build_ppo(games(), CONFIG, 0, CPU))
    stock = rollout(stock_ppo(games(), CONFIG, 0, CPU))
    np.testing.assert_array_equal(ours.actions, stock.actions)
    np.testing.assert_array_equal(ours.episode_starts, stock.episode_starts)
    # Pong gives no points this early: what is there was added where the clock ran out.
    assert stock.episode_starts[1:].any()
    assert stock.rewards.any()
    for name in ("rewards", "values", "log_probs", "advantages", "returns"):
        np.testing.assert_allclose(getattr(ours, name), getattr(stock, name), rtol=1e-4, atol=1e-5)


def test_a_callback_ends_the_rollout(games):
    class Stop:
        def __getattr__(self, name):
            return lambda *_: False

    model = build_ppo(games(), CONFIG, 0, CPU)
    model._setup_learn(CONFIG.n_timesteps)
    assert not model.collect_rollouts(model.env, Stop(), model.rollout_buffer, CONFIG.n_steps)


def test_a_loss_that_is_not_finite(games):
    model = build_ppo(games(), CONFIG, 0, CPU)
    rollout(model).returns[3, 1] = np.nan
    with pytest.raises(FloatingPointError, match="after 16 steps"):
        model.train()


def test_settings_it_does_not_know(games):
    with pytest.raises(ValueError, match="target_kl"):
        FastPPO(ChannelsLastCnnPolicy, games(), n_steps=8, batch_size=8, target_kl=0.1)


def test_it_saves_as_sb3_does(games, tmp_path):
    model = build_ppo(games(), CONFIG, 0, CPU)
    model.save(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").stat().st_size > 1e6


def test_actions_are_drawn_as_torch_draws_them():
    logits = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(2)
    ours = UncheckedCategorical(6).proba_distribution(logits).sample()
    torch.manual_seed(2)
    torch.testing.assert_close(ours, torch.distributions.Categorical(logits=logits).sample())
    # With all probability on one action, that one is drawn.
    certain = torch.tensor([[0.0, 200.0, 0.0]]).repeat(100, 1)
    assert (UncheckedCategorical(3).proba_distribution(certain).sample() == 1).all()
