"""PPO, then distillation, on pictures whose best answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ztw_rl.core.backends.eager import eager
from ztw_rl.core.choice import Forced
from ztw_rl.rl import ppo
from ztw_rl.rl.atari import vec_env
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.vec_env import AtariVecEnv
from ztw_rl.rl.config import DistillConfig, PPOConfig, PPORun
from ztw_rl.rl.distill import distill
from ztw_rl.rl.evaluate import play
from ztw_rl.rl.rows import Full, Row
from ztw_rl.rl.teacher import from_checkpoint

CPU = torch.device("cpu")
N_ENVS, N_ACTIONS, LENGTH = 8, 3, 10
PPO_CONFIG = PPOConfig(
    n_timesteps=1536,
    n_envs=N_ENVS,
    n_steps=16,
    batch_size=64,
    learning_rate=1e-3,
    gamma=0.0,
)
DISTILL_CONFIG = DistillConfig(
    n_timesteps=768, n_envs=N_ENVS, n_steps=16, n_epochs=4, learning_rates=(3e-3, 1e-3, 1e-3)
)


@pytest.fixture(scope="module")
def make_games(patch_games):
    return lambda: patch_games(N_ENVS, n_actions=N_ACTIONS, size=84, length=lambda seed: LENGTH)


@pytest.fixture(scope="module")
def trained(make_games, tmp_path_factory):
    """A policy that PPO trained, and its return before the first update."""
    run_dir = tmp_path_factory.mktemp("ppo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vec_env, "make_emulators", lambda config, n_envs, n_threads: make_games())
        env = AtariVecEnv(AtariConfig(), N_ENVS)
        result = ppo.train(env, PPO_CONFIG, run_dir, seed=0, device=CPU)
    run = PPORun(0, PPO_CONFIG, atari=AtariConfig())
    return from_checkpoint(result.checkpoint, run, AtariConfig())


@pytest.fixture(scope="module")
def distilled(trained, make_games, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("distill")
    result = distill(trained, make_games(), DISTILL_CONFIG, run_dir, seed=0, device=CPU)
    assert result.finished
    return result.model


def mean_return(model, games, row):
    (result,) = play(
        eager(model), [games], [row], n_episodes=8, seed=100, action_mode="greedy", device=CPU
    )
    return np.mean(result.returns)


def test_ppo_beats_random(distilled, make_games):
    # Random play gets a third of the length; the best is the length.
    assert mean_return(distilled, make_games(), Row(Full())) > 0.9 * LENGTH


@pytest.mark.parametrize("exit_index", [0, 1])
def test_the_ics_play_as_well(distilled, make_games, exit_index):
    row = Row(Forced(exit_index))
    assert mean_return(distilled, make_games(), row) > 0.9 * LENGTH


def test_the_ics_agree_with_the_teacher(distilled, make_games):
    x = torch.from_numpy(np.concatenate([make_games().reset(np.arange(8) + k) for k in (50, 70)]))
    with torch.no_grad():
        answers = distilled(x)
        alone = distilled.alone(x)[:, :-1].argmax(-1)
    teacher = answers[:, -1].argmax(-1, keepdim=True)
    assert len(teacher.unique()) == N_ACTIONS
    assert (answers[:, :-1].argmax(-1) == teacher).float().mean(0).min() > 0.9
    assert (alone == teacher).float().mean(0).min() > 0.9
