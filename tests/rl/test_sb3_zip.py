from __future__ import annotations

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from tests.corridor import Corridor
from ztw_rl.errors import UserError
from ztw_rl.rl.environments import make_batch
from ztw_rl.rl.gym.config import GymConfig
from ztw_rl.rl.networks.config import NetworkConfig
from ztw_rl.rl.sb3_zip import About, read_zip
from ztw_rl.rl.teacher import from_zip

CORRIDOR = GymConfig("tests.corridor:Corridor-v0")


def saved(tmp_path, kind=PPO, policy="MlpPolicy", **kwargs):
    """A model on the corridor, and its file."""
    model = kind(policy, DummyVecEnv([Corridor]), seed=0, device="cpu", **kwargs)
    model.save(tmp_path / "model.zip")
    return model, tmp_path / "model.zip"


def answers(teacher, x):
    with torch.no_grad():
        return torch.log_softmax(teacher.model().backbone(x), -1)


@pytest.mark.parametrize("kind", [PPO, A2C])
@pytest.mark.parametrize(
    ("policy_kwargs", "hidden", "activation"),
    [
        ({}, (64, 64), "tanh"),
        ({"net_arch": [8], "activation_fn": nn.ReLU}, (8,), "relu"),
        ({"net_arch": {"pi": [5, 4], "vf": [3]}}, (5, 4), "tanh"),
    ],
)
def test_actor_critics(tmp_path, kind, policy_kwargs, hidden, activation):
    model, path = saved(tmp_path, kind, policy_kwargs=policy_kwargs)
    teacher = from_zip(path, CORRIDOR)
    assert teacher.network == NetworkConfig((2,), "mlp", (), hidden, activation)
    x = torch.rand(4, 2)
    with torch.no_grad():
        wanted = model.policy.get_distribution(x).distribution.logits
    torch.testing.assert_close(answers(teacher, x), wanted)


def test_a_dqn(tmp_path):
    model, path = saved(tmp_path, DQN, buffer_size=10)
    teacher = from_zip(path, CORRIDOR, temperature=2.0)
    assert teacher.network.activation == "relu"
    x = torch.rand(4, 2)
    with torch.no_grad():
        wanted = torch.log_softmax(model.policy.q_net(x) / 2, -1)
    torch.testing.assert_close(answers(teacher, x), wanted)


def test_what_the_file_tells_without_its_pickles(tmp_path):
    assert read_zip(saved(tmp_path)[1])[0] == About("tanh", (2,))


def test_an_activation_that_nobody_tells(tmp_path):
    _, path = saved(tmp_path, policy_kwargs={"activation_fn": nn.ELU})
    with pytest.raises(UserError, match="does not tell what follows its hidden layers; say"):
        from_zip(path, CORRIDOR)
    assert from_zip(path, CORRIDOR, activation="relu").network.activation == "relu"


def test_observations_of_another_shape(tmp_path):
    _, path = saved(tmp_path)
    with pytest.raises(UserError) as raised:
        from_zip(path, GymConfig("CartPole-v1"))
    told = "reads observations of (2,), but cartpole has (4,); make them alike with wrappers"
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (GymConfig("Acrobot-v1"), "reads observations of (2,), but corridor has (6,); make them"),
        (
            GymConfig(CORRIDOR.id, kwargs={"n_actions": 3}),
            "the policy has 2 actions, but corridor has 3: it was trained on another environment",
        ),
    ],
)
def test_an_environment_that_it_cannot_play(tmp_path, other, message):
    _, path = saved(tmp_path)
    batch = make_batch(other, 1)
    with pytest.raises(UserError) as raised:
        from_zip(path, CORRIDOR).check_plays(batch)
    batch.close()
    assert message in str(raised.value)


def test_a_temperature_is_a_dqns(tmp_path):
    _, path = saved(tmp_path)
    with pytest.raises(UserError, match="is no DQN, so it has no temperature; leave it out"):
        from_zip(path, CORRIDOR, temperature=2.0)


@pytest.mark.parametrize("activation", [None, nn.Tanh])
def test_pixels_that_are_not_scaled(tmp_path, activation):
    """Whether the file keeps the settings as they are or, beside a pickle, as text."""
    kwargs = {"normalize_images": False} | ({"activation_fn": activation} if activation else {})
    model = PPO(
        "MlpPolicy",
        DummyVecEnv([lambda: Corridor(images=True)]),
        policy_kwargs=kwargs,
        device="cpu",
    )
    model.save(tmp_path / "model.zip")
    with pytest.raises(UserError, match="was trained with normalize_images=False"):
        from_zip(tmp_path / "model.zip", GymConfig("tests.corridor:Pictures-v0"))


@pytest.fixture
def normalized(tmp_path):
    """A model behind ``VecNormalize``, its file, and its statistics."""
    env = VecNormalize(DummyVecEnv([lambda: Corridor(length=9)]), clip_obs=1.5)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, seed=0, device="cpu")
    model.learn(32)
    model.save(tmp_path / "model.zip")
    found = env.obs_rms
    statistics = {
        "mean": found.mean,
        "var": found.var,
        "epsilon": env.epsilon,
        "clip_obs": env.clip_obs,
    }
    np.savez(tmp_path / "statistics.npz", **statistics)
    return model, env, statistics


def test_statistics_go_into_the_network(tmp_path, normalized):
    model, env, _ = normalized
    teacher = from_zip(tmp_path / "model.zip", CORRIDOR, normalization=tmp_path / "statistics.npz")
    raw = np.array([[0, 9], [8, 9], [30, -5]], np.float32)
    with torch.no_grad():
        seen = torch.as_tensor(env.normalize_obs(raw), dtype=torch.float32)
        assert (seen.abs() == 1.5).any()
        wanted = model.policy.get_distribution(seen).distribution.logits
    torch.testing.assert_close(answers(teacher, torch.from_numpy(raw)), wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, "lacks mean"),
        ({"mean": np.zeros(3)}, "normalises observations of (3,), but the policy reads (2,)"),
        ({"var": np.array([1.0, -1.0])}, "holds no statistics"),
        ({"epsilon": 0.0}, "holds no statistics"),
        ({"epsilon": np.ones(2)}, "holds no statistics"),
        ({"var": np.array([1.0, np.inf])}, "holds no statistics"),
        ({"mean": np.array([object(), None])}, "cannot be read as .npz"),
    ],
)
def test_statistics_that_are_none(tmp_path, normalized, changes, message):
    found = {name: value for name, value in (normalized[2] | changes).items() if value is not None}
    np.savez(tmp_path / "other.npz", **found)
    with pytest.raises(UserError) as raised:
        from_zip(tmp_path / "model.zip", CORRIDOR, normalization=tmp_path / "other.npz")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_statistics_that_are_not_there(tmp_path, normalized):
    (tmp_path / "text.npz").write_text("mean")
    for name, message in (("nowhere.npz", "does not exist"), ("text.npz", "cannot be read as")):
        with pytest.raises(UserError, match=message):
            from_zip(tmp_path / "model.zip", CORRIDOR, normalization=tmp_path / name)
