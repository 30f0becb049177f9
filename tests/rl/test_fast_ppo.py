"""Rollout and update of our PPO are SB3's."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from torch import Tensor

from benchmarks.ppo import stock_ppo
from ztw_rl.core.device import exact_device
from ztw_rl.rl import fast_ppo
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.vec_env import AtariVecEnv
from ztw_rl.rl.config import PPOConfig
from ztw_rl.rl.fast_ppo import FastPPO, PPOLoss, ppo_loss
from ztw_rl.rl.networks.config import IMPALA_WIDTHS
from ztw_rl.rl.policy import ChannelsLastCnnPolicy, ImpalaCNN
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
    assert env.batch.episode_frames.tolist() == [9, 9]
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


RATIOS = torch.tensor([1.5, 1.5, 0.5, 1.0])
"""Of the new to the old probability of the action."""
ADVANTAGES = torch.tensor([1.0, -1.0, -1.0, 1.0])


def loss(**changes: Tensor) -> PPOLoss:
    given = {
        "values": torch.tensor([1.0, 2.0, 3.0, 4.0]),
        "log_prob": RATIOS.log() - 2.0,
        "entropy": torch.tensor([0.5, 0.5, 1.0, 1.0]),
        "old_log_prob": torch.full((4,), -2.0),
        "advantages": ADVANTAGES,
        "returns": torch.tensor([1.0, 2.0, 3.0, 6.0]),
        "clip_range": torch.tensor(0.1),
        **changes,
    }
    return ppo_loss(**given, ent_coef=0.01, vf_coef=0.5)


def test_by_hand():
    found = loss()
    # Normalised, the advantages are divided by sqrt(4 / 3); the first gain is clipped at 1.1, the
    # second loss is not clipped, the third is clipped at 0.9.
    policy = -(1.1 - 1.5 - 0.9 + 1.0) / 4 / math.sqrt(4 / 3)
    assert found.policy.item() == pytest.approx(policy)
    assert found.value.item() == pytest.approx(1.0)
    assert found.entropy.item() == pytest.approx(-0.75)
    assert found.total.item() == pytest.approx(policy - 0.0075 + 0.5)
    # Ratio - 1 - log ratio, of the four.
    kl = (0.5 - math.log(1.5)) * 2 + (-0.5 - math.log(0.5))
    assert found.approx_kl.item() == pytest.approx(kl / 4, rel=1e-5)
    assert found.clip_fraction.item() == 0.75


def test_a_wider_clip_range_clips_nothing():
    found = loss(clip_range=torch.tensor(0.6))
    assert found.policy.item() == pytest.approx(-(1.5 - 1.5 - 0.5 + 1.0) / 4 / math.sqrt(4 / 3))
    assert found.clip_fraction.item() == 0


def test_scale_and_offset_of_the_advantages_do_not_matter():
    torch.testing.assert_close(loss(advantages=5 * ADVANTAGES + 3), loss())


def test_a_single_sample_keeps_its_advantage():
    one = {
        name: torch.tensor([figure])
        for name, figure in {
            "values": 0.0,
            "log_prob": 0.0,
            "entropy": 0.0,
            "old_log_prob": 0.0,
            "advantages": 3.0,
            "returns": 0.0,
        }.items()
    }
    assert loss(**one).policy.item() == -3.0


def test_only_the_total_has_a_gradient_where_it_is_not_clipped():
    log_prob = (RATIOS.log() - 2.0).requires_grad_()
    found = loss(log_prob=log_prob)
    (gradient,) = torch.autograd.grad(found.total, log_prob)
    # Samples 0 and 2 are beyond the clip range on the side that their advantage points to.
    assert (gradient != 0).tolist() == [False, True, False, True]
    assert not found.approx_kl.requires_grad


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


class ImpalaPolicy(ActorCriticCnnPolicy):
    """SB3's own policy with our features extractor, as its users give one."""

    def __init__(self, *args, **kwargs):
        super().__init__(
            *args,
            **kwargs,
            net_arch=[],
            features_extractor_class=ImpalaCNN,
            features_extractor_kwargs={"widths": IMPALA_WIDTHS},
        )


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize(
    "config",
    [
        ONE_STEP,
        FOUR_STEPS,
        TEN_STEPS,
        replace(TEN_STEPS, compiled=True),
        replace(ONE_STEP, network="impala"),
    ],
    ids=["one step", "four", "ten", "ten, compiled", "one of impala"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_an_update_equals_stock_ppos(pong, train_once, config, name):
    """Same weights, rollout and minibatches give the same losses and the same new weights."""
    device = exact_device(name)
    fast = build_ppo(pong, config, seed=0, device=device)
    policy = ImpalaPolicy if config.network else ActorCriticCnnPolicy
    stock = stock_ppo(pong, config, 0, device, policy)
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
    # Adam divides a gradient by its own size, so where it is near 0, rounding shows; 15 layers
    # round more than 3. A step is 2.5e-4.
    atol = 5e-5 if config.network else 1e-5
    torch.testing.assert_close(final, dict(stock.policy.state_dict()), rtol=1e-4, atol=atol)


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
