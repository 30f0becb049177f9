"""Each environment of docs/beyond-atari.md, from training to an exported file.

A few hundred steps: what they teach means nothing, that the parts fit together does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import ztw_rl
from ztw_rl import cli, recipes
from ztw_rl.core.choice import Forced, Threshold
from ztw_rl.rl.gym.batch import make_env
from ztw_rl.rl.gym.config import GymConfig
from ztw_rl.rl.rows import Full, RandomExits
from ztw_rl.rl.tables import load_table

pytestmark = pytest.mark.integration

TRAIN = [
    *("--ppo.n-timesteps=256", "--ppo.n-envs=2", "--ppo.n-steps=64", "--ppo.batch-size=64"),
    "--ppo.n-epochs=1",
]
DISTILL = [
    *("--distill.n-timesteps=256", "--distill.n-envs=2", "--distill.n-steps=64"),
    "--distill.n-epochs=1",
]
EVAL = ["--n-episodes=2", "--n-envs=4", "--thresholds=0.3,0.9"]
N_LOOKS = 40
"""Observations on which the exported file is compared with the agent."""


@pytest.mark.parametrize(
    ("name", "package", "exits"),
    [
        ("cartpole", "gymnasium", ("layer1",)),
        ("lunarlander", "Box2D", ("layer1", "layer2")),
        ("doorkey", "minigrid", ("conv1", "conv2")),
        ("vizdoombasic", "vizdoom", ("conv1", "conv2")),
    ],
)
def test_from_training_to_an_exported_file(tmp_path, monkeypatch, name, package, exits):
    pytest.importorskip(package, reason=f"{package} is not installed; make test-integration does")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train-ppo", f"--env={name}", *TRAIN]) == 0
    assert cli.main(["distill-ics", *DISTILL]) == 0
    assert cli.main(["eval", *EVAL]) == 0
    (curve,) = Path("runs/eval").glob("*/curve.json")
    table = load_table(curve)
    assert table.exits == exits
    assert table.random_return is not None
    n_exits = len(exits) + 1
    n_rows = [len(table.of(kind)) for kind in (Threshold, RandomExits, Forced, Full)]
    assert n_rows == [2, 2, n_exits, 1]
    assert cli.main(["export", "--threshold=0.5", "--output=exported.zip"]) == 0

    (run,) = Path("runs/distill").iterdir()
    exported, agent = ztw_rl.load("exported.zip"), ztw_rl.load(run, threshold=0.5)
    env = make_env(recipes.load(name).env)
    x, _ = env.reset(seed=0)
    for _ in range(N_LOOKS):
        ours, theirs = exported.decide(x), agent.decide(x)
        assert (ours.labels, ours.exits) == (theirs.labels, theirs.exits)
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-4)
        x, _, terminated, truncated, _ = env.step(int(ours.actions))
        if terminated or truncated:
            x, _ = env.reset()
    returns, lengths = evaluate_policy(
        exported, Monitor(env), n_eval_episodes=1, return_episode_rewards=True
    )
    assert len(returns) == len(lengths) == 1
    env.close()


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (PPO, {"n_steps": 16, "batch_size": 16, "n_epochs": 1}),
        (DQN, {"buffer_size": 100, "learning_starts": 10}),
    ],
)
def test_what_stock_sb3_trains_on_frames_of_64x64x3(tmp_path, monkeypatch, algorithm, settings):
    pytest.importorskip("minigrid", reason="minigrid is not installed; make test-integration does")
    monkeypatch.chdir(tmp_path)
    wrappers = ("minigrid.wrappers:RGBImgObsWrapper", "minigrid.wrappers:ImgObsWrapper")
    config = GymConfig("minigrid:MiniGrid-Empty-8x8-v0", wrappers=wrappers)
    env = DummyVecEnv([lambda: Monitor(make_env(config))] * 2)
    assert env.observation_space.shape == (64, 64, 3)
    model = algorithm("CnnPolicy", env, device="cpu", seed=0, **settings).learn(32)
    model.save("model.zip")
    played = [f"--env={config.id}", "--env.wrappers", *wrappers]
    assert cli.main(["distill-ics", "--policy=model.zip", *played, *DISTILL]) == 0
    assert cli.main(["eval", *EVAL]) == 0

    (run,) = Path("runs/distill").iterdir()
    x = env.reset()
    own = model.policy.obs_to_tensor(x)[0]
    if algorithm is DQN:
        logits = model.q_net(own)
    else:
        logits = model.policy.get_distribution(own).distribution.logits
    full = ztw_rl.load(run, rule="full").decide(x)
    expected = torch.log_softmax(logits, dim=1).detach().numpy()
    np.testing.assert_allclose(full.log_probs, expected, atol=1e-3)
    env.close()
