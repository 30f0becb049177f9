from __future__ import annotations

import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy

from ztw_rl.atari.backbone import early_exit_nature_cnn
from ztw_rl.atari.config import AtariConfig
from ztw_rl.atari.early_exit_policy import EarlyExitPolicy
from ztw_rl.atari.vec_env import AtariVecEnv
from ztw_rl.core.backends.eager import eager
from ztw_rl.core.runtime import Runtime
from ztw_rl.errors import UserError


@pytest.fixture
def policy() -> EarlyExitPolicy:
    torch.manual_seed(0)
    model = early_exit_nature_cnn(6).eval()
    x = torch.zeros(1, 4, 84, 84, dtype=torch.uint8)
    return EarlyExitPolicy(Runtime(eager(model), x, 0.5))


def test_sb3_evaluates_it(policy):
    env = AtariVecEnv(AtariConfig(max_frames=64), n_envs=2)
    returns, lengths = evaluate_policy(
        policy, env, n_eval_episodes=2, return_episode_rewards=True, warn=False
    )
    env.close()
    assert len(returns) == len(lengths) == 2


def test_single_observations_and_batches(policy):
    x = np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84), dtype=np.uint8)
    actions, state = policy.predict(x, deterministic=True)
    assert actions.shape == (3,)
    assert state is None
    one, _ = policy.predict(x[1], deterministic=True)
    assert one.shape == ()
    assert one == actions[1]
    sampled = {int(policy.predict(x[1])[0]) for _ in range(50)}
    assert len(sampled) > 1


def test_observations_that_do_not_fit(policy):
    with pytest.raises(UserError, match="the input is"):
        policy.predict(np.zeros((1, 84, 84, 4), np.uint8))
    with pytest.raises(UserError, match="not a dictionary"):
        policy.predict({"x": np.zeros((1, 4, 84, 84), np.uint8)})
