from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import nn

import ztw_rl
from tests.corridor import Corridor
from ztw_rl import cli
from ztw_rl.errors import UserError


def corridors(**kwargs) -> DummyVecEnv:
    return DummyVecEnv([lambda: Corridor(**kwargs)] * 2)


def trained(env, kind=PPO, policy="MlpPolicy", **kwargs):
    if kind is PPO:
        kwargs |= {"n_steps": 16, "batch_size": 16}
    return kind(policy, env, seed=0, device="cpu", **kwargs)


def test_from_a_model_to_an_exported_file(tmp_path):
    env = corridors()
    model = trained(env).learn(2000)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    agent = ztw_rl.attach(model, env=env)
    assert repr(agent).endswith("not distilled yet, so the full policy answers")
    x = np.array([[0, 5], [3, 5]], np.float32)
    with torch.no_grad():
        wanted = model.policy.get_distribution(torch.from_numpy(x)).distribution.logits
    np.testing.assert_allclose(agent.decide(x).log_probs, wanted, atol=1e-6)
    with pytest.raises(UserError, match="have learnt nothing yet; call distill first"):
        agent.export(tmp_path / "early.zip")
    assert agent.distill(n_timesteps=2000, threshold=0.6, quiet=True) is agent
    assert agent.exits == ("layer1",)
    assert (agent.decide(x).actions == wanted.argmax(-1).numpy()).all()
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=10, warn=False)
    assert mean > 5
    agent.export(tmp_path / "early.zip")
    agent.save(tmp_path / "agent")
    for other in (ztw_rl.load(tmp_path / "early.zip"), ztw_rl.load(tmp_path / "agent")):
        np.testing.assert_array_equal(other.decide(x).actions, agent.decide(x).actions)
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_same_seed_gives_the_same_exits_and_chance_is_left_alone():
    env = corridors()
    model = trained(env)
    state = torch.random.get_rng_state()
    first = ztw_rl.attach(model, env=env, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    second = ztw_rl.attach(model, env=env, seed=3)
    x = np.array([[0, 5]], np.float32)
    for agent in (first, second):
        agent.distill(n_timesteps=256, threshold=0.0, quiet=True)
    np.testing.assert_array_equal(first.decide(x).log_probs, second.decide(x).log_probs)


def test_normalised_observations():
    env = VecNormalize(corridors(), clip_obs=2.0)
    model = trained(env).learn(64)
    count = env.obs_rms.count
    agent = ztw_rl.attach(model, env=env).distill(n_timesteps=64, quiet=True)
    assert env.training
    assert env.obs_rms.count == count
    raw = np.array([[0, 5], [4, 5]], np.float32)
    seen = torch.as_tensor(env.normalize_obs(raw), dtype=torch.float32)
    with torch.no_grad():
        wanted = model.policy.get_distribution(seen).distribution.logits
    full = ztw_rl.attach(model, env=env).decide(raw).log_probs
    np.testing.assert_allclose(full, wanted, atol=1e-6)
    assert agent.decide(raw).actions.shape == (2,)


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_pictures_as_sb3_wraps_them(kind):
    env = VecFrameStack(corridors(images=True, size=40), 2)
    kwargs = {} if kind is PPO else {"buffer_size": 10}
    model = trained(env, kind, "CnnPolicy", **kwargs)
    agent = ztw_rl.attach(model, env=env, exits=["conv1"], method="sdn")
    agent.distill(n_timesteps=64, quiet=True, threshold=1.0)
    observations = env.reset()
    actions, _ = agent.predict(observations, deterministic=True)
    assert (actions == model.predict(observations, deterministic=True)[0]).all()


def test_a_run_folder_is_gone_on_with(tmp_path):
    env = corridors()
    agent = ztw_rl.attach(trained(env), env=env)
    agent.distill(n_timesteps=64, run_dir=tmp_path / "run", quiet=True)
    again = ztw_rl.attach(trained(env), env=env)
    again.distill(n_timesteps=64, run_dir=tmp_path / "run", resume=True, quiet=True)
    x = np.array([[0, 5]], np.float32)
    np.testing.assert_array_equal(agent.decide(x).log_probs, again.decide(x).log_probs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "mine holds a fit already; go on with resume=True, or name another run_dir"),
        (
            {"resume": True, "n_timesteps": 128},
            "n_timesteps is 64 in mine and cannot become 128 midway; name another run_dir",
        ),
        ({"resume": True, "run_dir": None}, "resume needs run_dir, the folder of the fit that"),
        ({"resume": True, "run_dir": "other"}, "there is no run folder other"),
        ({"threshold": 1.5}, "threshold 1.5 is no confidence, which lies between 0 and 1"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    env = corridors()
    settings = {"n_timesteps": 64, "run_dir": "mine", "quiet": True}
    agent = ztw_rl.attach(trained(env), env=env).distill(**settings)
    with pytest.raises(UserError) as raised:
        agent.distill(**settings | changes)
    assert str(raised.value).startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda env: ztw_rl.attach(trained(env)), "attach needs env= for a PPO"),
        (
            lambda env: ztw_rl.attach(trained(env), env=env, example=1),
            "attach knows no example= for a PPO; it takes env, exits, method, temperature, seed",
        ),
        (lambda env: ztw_rl.attach("pong", env=env), "what exits hang on must be a torch module"),
        (
            lambda env: ztw_rl.attach(trained(env), env=env, exits=["layer9"]),
            "exits must be some of input, layer1 in this order, not 'layer9'",
        ),
        (
            lambda env: ztw_rl.attach(trained(env), env=corridors(images=True)),
            "the PPO does not read observations of (3, 12, 10)",
        ),
        (
            lambda env: ztw_rl.attach(
                trained(env, policy_kwargs={"activation_fn": nn.ELU}), env=env
            ),
            "the PPO has ELU behind its hidden layers; only ReLU and Tanh are known",
        ),
        (
            lambda env: ztw_rl.attach(trained(env), env=gymnasium.make("CartPole-v1")),
            "env is a TimeLimit and no VecEnv; make one with make_vec_env",
        ),
        (
            lambda env: ztw_rl.attach(trained(env), env=VecFrameStack(VecNormalize(env), 2)),
            "VecNormalize must be the outermost wrapper of env",
        ),
    ],
)
def test_what_cannot_be_attached(make, message):
    with pytest.raises(UserError) as raised:
        make(corridors())
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_the_pages_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "your-policy.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    exec(compile(code, "docs/your-policy.md", "exec"), {})
    assert "threshold 0.9" in capsys.readouterr().out
    assert ztw_rl.load("fast.onnx").labels == ["0", "1"]
    assert cli.main(["eval", "--agent=cartpole", "--n-episodes=2", "--thresholds=0.9"]) == 0
