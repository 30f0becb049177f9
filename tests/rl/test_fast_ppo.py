"""The rollout of our PPO is SB3's; tests/atari/test_ppo_update.py compares the updates."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticCnnPolicy

from benchmarks.ppo import stock_ppo
from ztw_rl.core.device import exact_device
from ztw_rl.rl import fast_ppo
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.vec_env import AtariVecEnv
from ztw_rl.rl.config import PPOConfig
from ztw_rl.rl.fast_ppo import FastPPO
from ztw_rl.rl.policy import ChannelsLastCnnPolicy
from ztw_rl.rl.ppo import build_ppo

CPU = torch.device("cpu")
CONFIG = PPOConfig(n_timesteps=32, n_envs=2, n_steps=8, batch_size=8, n_epochs=2)


@pytest.fixture
def games():
    """Makes equal games, as often as asked; each is truncated after six steps."""
    made = []

    def make() -> AtariVecEnv:
        made.append(AtariVecEnv(AtariConfig(max_frames=24, noop_max=0), CONFIG.n_envs, n_threads=1))
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


def test_a_step_is_noted_while_the_games_play_the_next(games):
    happened = []

    class Watched(AtariVecEnv):
        def step_async(self, actions):
            happened.append("begin")
            super().step_async(actions)

        def step_wait(self):
            happened.append("end")
            return super().step_wait()

    class Note(BaseCallback):
        def _on_step(self):
            happened.append(self.num_timesteps)
            assert self.locals["env"] is env
            assert self.locals["rewards"].shape == self.locals["dones"].shape == (CONFIG.n_envs,)
            assert len(self.locals["infos"]) == CONFIG.n_envs
            return self.num_timesteps < 6

    env = Watched(AtariConfig(), CONFIG.n_envs, n_threads=1)
    model = build_ppo(env, CONFIG, 0, CPU)
    model.learn(CONFIG.n_timesteps, callback=Note())
    env.close()
    # Told to stop while a step was under way, it waits for it.
    assert happened == ["begin", "end", "begin", 2, "end", "begin", 4, "end", "begin", 6, "end"]
    assert model.num_timesteps == 6


def test_a_callback_that_raises_leaves_no_step_under_way(games):
    class Broken(BaseCallback):
        def _on_step(self):
            raise ZeroDivisionError

    env = games()
    model = build_ppo(env, CONFIG, 0, CPU)
    with pytest.raises(ZeroDivisionError):
        model.learn(CONFIG.n_timesteps, callback=Broken())
    # Two steps of four frames, after those of the start.
    assert env.emulators.episode_frames.tolist() == [9, 9]
    at = model._last_obs.copy()
    assert model.collect_rollouts(env, Silent(), model.rollout_buffer, CONFIG.n_steps)
    first = model.rollout_buffer._frames[0].permute(2, 0, 1).numpy()
    np.testing.assert_array_equal(first, at[0])


class Silent:
    """A callback that lets everything happen."""

    def __getattr__(self, name):
        return lambda *_: True


def test_it_multiplies_in_tf32_where_asked(games, monkeypatch):
    """Whatever runs the network, and whether or not ``learn`` does."""
    asked = []

    @contextmanager
    def noted(allowed, device):
        asked.append(allowed)
        yield
        asked.pop()

    monkeypatch.setattr(fast_ppo, "tf32_convolutions", noted)
    for precision in ("float32", "tf32", "bfloat16"):
        model = build_ppo(games(), replace(CONFIG, precision=precision), 0, CPU)
        seen = []
        trunk = model.policy.features_extractor
        trunk.register_forward_hook(lambda *_, seen=seen: seen.extend(asked))
        trunk.cnn[0].weight.register_hook(lambda _, seen=seen: seen.extend(asked))
        rollout(model)
        model.train()
        # 8 steps, the games that were cut off, the last value; 4 minibatches, there and back.
        assert len(seen) > 8 + 1 + 2 * 4
        assert set(seen) == {precision == "tf32"}


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_loss_that_is_not_finite(games, broken):
    model = build_ppo(games(), CONFIG, 0, CPU)
    rollout(model).returns[3, 1] = broken
    with pytest.raises(FloatingPointError, match="after 16 steps"):
        model.train()


def test_a_last_step_that_breaks_the_weights(games):
    """The losses before it say nothing of it."""
    config = replace(CONFIG, batch_size=16, n_epochs=1, learning_rate=1e38)
    model = build_ppo(games(), config, 0, CPU)
    rollout(model)
    with pytest.raises(FloatingPointError, match="weights after 16 steps"):
        model.train()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"target_kl": 0.1}, "target_kl"),
        ({"clip_range_vf": 0.1}, "clip_range_vf"),
        ({"normalize_advantage": False}, "normalize_advantage"),
        ({"rollout_buffer_class": RolloutBuffer}, "rollout_buffer_class"),
        ({"policy": ActorCriticCnnPolicy}, "policy"),
    ],
)
def test_settings_it_does_not_know(games, settings, name):
    settings = {"policy": ChannelsLastCnnPolicy, "n_steps": 8, "batch_size": 8, **settings}
    with pytest.raises(ValueError, match=f"does not know .*{name}"):
        FastPPO(env=games(), **settings)


def test_saved_and_loaded_as_sb3_does(games, tmp_path):
    model = build_ppo(games(), CONFIG, 0, CPU)
    model.learn(CONFIG.n_timesteps)
    model.save(tmp_path / "ours.zip")
    loaded = FastPPO.load(tmp_path / "ours.zip", env=games(), device="cpu")
    weights = dict(model.policy.state_dict())
    torch.testing.assert_close(dict(loaded.policy.state_dict()), weights, rtol=0, atol=0)
    before = {k: v.clone() for k, v in weights.items()}
    loaded.learn(CONFIG.n_timesteps)
    after = loaded.policy.state_dict()
    assert not torch.equal(after["action_net.weight"], before["action_net.weight"])


def test_it_goes_on_with_what_stock_ppo_saved(games, tmp_path):
    stock = stock_ppo(games(), CONFIG, 0, CPU)
    stock.learn(CONFIG.n_timesteps)
    stock.save(tmp_path / "stock.zip")
    model = build_ppo(games(), CONFIG, 1, CPU)
    model.set_parameters(tmp_path / "stock.zip")
    model.learn(CONFIG.n_timesteps)
    (moments, *_) = model.policy.optimizer.state_dict()["state"].values()
    # 32 steps each, in minibatches of 8, seen twice.
    assert moments["step"] == 2 * 8


@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_a_recorded_decision_is_the_policys(games, name):
    """More often than a graph needs to be recorded, with other weights each time."""
    device = exact_device(name)
    model = build_ppo(games(), CONFIG, 0, device)
    generator = np.random.default_rng(0)
    for _ in range(8):
        frames = generator.integers(0, 256, (2, 4, 84, 84), np.uint8)
        observations = torch.as_tensor(frames, device=device)
        with torch.no_grad():
            model.policy.value_net.bias.add_(1.0)
            actions, values, log_probs = model._decide(observations)
            found = model.policy.evaluate_actions(observations, actions)
        torch.testing.assert_close(values, found[0].flatten(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(log_probs, found[1], rtol=1e-4, atol=1e-5)
