"""An update of our PPO is stock SB3's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger

from benchmarks.ppo import stock_ppo
from ztw_rl.core.device import exact_device
from ztw_rl.rl.config import PPOConfig
from ztw_rl.rl.ppo import build_ppo

FOUR_STEPS = PPOConfig(n_timesteps=16, n_envs=2, n_steps=8, batch_size=8, n_epochs=2)
ONE_STEP = PPOConfig(n_timesteps=16, n_envs=2, n_steps=8, batch_size=16, n_epochs=1)
"""The whole rollout is one minibatch, seen once."""
TEN_STEPS = PPOConfig(n_timesteps=16, n_envs=2, n_steps=8, batch_size=8, n_epochs=5)
"""As many as CUDA needs to replay what it recorded."""
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def same_rollout(source: RolloutBuffer, target: RolloutBuffer) -> None:
    """Fill ``target`` with what ``source`` holds."""
    for step in range(source.buffer_size):
        value, log_prob = map(torch.as_tensor, (source.values[step], source.log_probs[step]))
        kept = (source.observations, source.actions, source.rewards, source.episode_starts)
        target.add(*(array[step] for array in kept), value, log_prob)
    target.returns, target.advantages = source.returns, source.advantages


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize(
    "config",
    [ONE_STEP, FOUR_STEPS, TEN_STEPS, replace(TEN_STEPS, compiled=True)],
    ids=["one step", "four", "ten", "ten, compiled"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_an_update_equals_stock_ppos(pong, train_once, config, name):
    """Same weights, rollout and minibatches give the same losses and the same new weights."""
    device = exact_device(name)
    fast = build_ppo(pong, config, seed=0, device=device)
    stock = stock_ppo(pong, config, 0, device)
    initial = {k: v.clone() for k, v in stock.policy.state_dict().items()}
    assert initial.keys() == fast.policy.state_dict().keys()
    torch.testing.assert_close(dict(fast.policy.state_dict()), initial, rtol=0, atol=0)

    stock.set_logger(Logger(None, []))
    _, callback = stock._setup_learn(config.n_timesteps)
    assert stock.collect_rollouts(pong, callback, stock.rollout_buffer, config.n_steps)
    # Pong gives no reward this early; without any, half of the loss would be idle.
    noise = np.random.default_rng(0).normal(size=stock.rollout_buffer.returns.shape)
    stock.rollout_buffer.returns += noise.astype(np.float32)
    stock.rollout_buffer.advantages += noise.astype(np.float32)
    same_rollout(stock.rollout_buffer, fast.rollout_buffer)

    losses = []
    for model in (stock, fast):
        train_once(model)
        losses.append({k: v for k, v in model.logger.name_to_value.items() if "train/" in k})
    assert losses[0].keys() >= {
        "train/policy_gradient_loss",
        "train/value_loss",
        "train/entropy_loss",
        "train/approx_kl",
        "train/loss",
    }
    assert losses[1] == pytest.approx(losses[0], rel=1e-4, abs=1e-5)
    # All three terms are at work.
    assert losses[0]["train/value_loss"] > 0.1
    assert losses[0]["train/entropy_loss"] < -1
    steps = {s["step"].item() for s in stock.policy.optimizer.state_dict()["state"].values()}
    assert steps == {config.n_epochs * config.n_envs * config.n_steps // config.batch_size}
    final = dict(fast.policy.state_dict())
    assert any(not torch.equal(final[k], initial[k]) for k in initial)
    torch.testing.assert_close(final, dict(stock.policy.state_dict()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DEVICES)
def test_schedules_reach_the_update(pong, train_once, name):
    """Learning rate, clip range and entropy bonus of the second update are not the first's."""
    device = exact_device(name)
    config = replace(TEN_STEPS, schedule="linear")
    fast = build_ppo(pong, config, seed=0, device=device)
    stock = stock_ppo(pong, config, 0, device)
    stock.set_logger(Logger(None, []))
    _, callback = stock._setup_learn(TEN_STEPS.n_timesteps)
    assert stock.collect_rollouts(pong, callback, stock.rollout_buffer, TEN_STEPS.n_steps)
    noise = np.random.default_rng(0).normal(size=stock.rollout_buffer.returns.shape)
    stock.rollout_buffer.advantages += noise.astype(np.float32)
    same_rollout(stock.rollout_buffer, fast.rollout_buffer)
    moved = []
    for remaining, ent_coef in ((1.0, 0.01), (0.1, 1.0)):
        before = {k: v.detach().clone() for k, v in fast.policy.named_parameters()}
        for model in (stock, fast):
            model.ent_coef = ent_coef
            train_once(model, remaining)
        after = dict(fast.policy.named_parameters())
        moved.append(max((after[k] - before[k]).abs().max().item() for k in before))
        weights = dict(stock.policy.named_parameters())
        torch.testing.assert_close(after, weights, rtol=1e-4, atol=2e-5)
    assert moved[1] < moved[0] / 5
