"""The paper's hyperparameters, as defaults and where they are used.

Source: Wołczyk et al., "Zero Time Waste" (2021), appendix A, and its published code where the
appendix leaves a value open.
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from tests.networks import early_exit_nature_cnn
from ztw_rl.core.checkpoint import load_tensors
from ztw_rl.core.training import piecewise_rate
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.vec_env import AtariVecEnv
from ztw_rl.rl.config import DistillConfig, PPOConfig
from ztw_rl.rl.distill import distill
from ztw_rl.rl.networks.config import NetworkConfig
from ztw_rl.rl.ppo import build_ppo
from ztw_rl.rl.teacher import Provenance, Teacher
from ztw_rl.supervised.config import EnsembleTraining, default_ic_training

CPU = torch.device("cpu")

ATARI = {
    "frame_skip": 4,
    "screen_size": 84,
    "frame_stack": 4,
    "repeat_action_probability": 0.1,
    "terminal_on_life_loss": True,
    "clip_reward": True,
}
PPO = {
    "n_timesteps": 10**7,
    "n_envs": 8,
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 4,
    "learning_rate": 2.5e-4,
    "clip_range": 0.1,
    "schedule": "constant",
    "ent_coef": 0.01,
    "vf_coef": 0.5,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "max_grad_norm": 0.5,
}
DISTILLATION = {
    "n_timesteps": 10**6,
    "n_envs": 8,
    "n_steps": 128,
    "n_epochs": 5,
    "ic_batch_size": 64,
    "ensemble_batch_size": 128,
    "learning_rates": (1e-2, 1e-3, 1e-4),
    "milestones": (0.1, 0.75),
}


@pytest.mark.parametrize(
    ("kind", "wanted"), [(AtariConfig, ATARI), (PPOConfig, PPO), (DistillConfig, DISTILLATION)]
)
def test_defaults_are_the_papers(kind, wanted):
    defaults = kind()
    assert {name: getattr(defaults, name) for name in wanted} == wanted
    assert NetworkConfig().default_exits == ("conv1", "conv2")


@pytest.fixture
def pong():
    env = AtariVecEnv(AtariConfig(), 2, n_threads=1)
    yield env
    env.close()


def test_every_setting_of_ppo_reaches_it(pong):
    """Each is changed in turn, and nothing else changes with it."""
    used = {
        "n_steps": lambda model: model.n_steps,
        "batch_size": lambda model: model.batch_size,
        "n_epochs": lambda model: model.n_epochs,
        "learning_rate": lambda model: model.lr_schedule(1.0),
        "clip_range": lambda model: model.clip_range(1.0),
        "schedule": lambda model: model.lr_schedule(0.5) < model.lr_schedule(1.0),
        "ent_coef": lambda model: model.ent_coef,
        "vf_coef": lambda model: model.vf_coef,
        "gamma": lambda model: (model.gamma, model.rollout_buffer.gamma),
        "gae_lambda": lambda model: (model.gae_lambda, model.rollout_buffer.gae_lambda),
        "max_grad_norm": lambda model: model.max_grad_norm,
    }
    base = PPOConfig(n_envs=2, n_steps=8, batch_size=8)
    changes = {
        "n_steps": 16,
        "batch_size": 4,
        "n_epochs": 3,
        "learning_rate": 1e-3,
        "clip_range": 0.3,
        "schedule": "linear",
        "ent_coef": 0.5,
        "vf_coef": 0.25,
        "gamma": 0.5,
        "gae_lambda": 0.75,
        "max_grad_norm": 7.0,
    }
    assert used.keys() == changes.keys()
    # Of these the environment and the run folder take care.
    elsewhere = {"n_timesteps", "n_envs", "precision", "compiled", "checkpoint_interval"}
    elsewhere |= {"network", "net_arch", "activation", "reward_scale"}
    assert {field.name for field in fields(PPOConfig)} == {*used, *elsewhere}

    def seen(config):
        model = build_ppo(pong, config, 0, CPU)
        return {name: read(model) for name, read in used.items()}

    before = seen(base)
    for name, value in changes.items():
        after = seen(replace(base, **{name: value}))
        assert {other for other in used if after[other] != before[other]} == {name}


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    state = early_exit_nature_cnn(3).state_dict()
    own = {n: t.clone() for n, t in state.items() if n.startswith(("blocks.", "head."))}
    return Teacher(own, AtariConfig(), NetworkConfig(), Provenance())


@pytest.mark.parametrize(
    ("changes", "ic_steps", "ensemble_steps"),
    [
        # Two rollouts of 4 games by 4 steps, twice through: 16 samples in minibatches.
        ({}, 2 * 2 * 2, 2 * 2 * 4),
        ({"n_epochs": 5}, 2 * 5 * 2, 2 * 5 * 4),
        ({"ic_batch_size": 16}, 2 * 2 * 1, 2 * 2 * 4),
        ({"ensemble_batch_size": 8}, 2 * 2 * 2, 2 * 2 * 2),
        ({"n_steps": 8}, 1 * 2 * 4, 1 * 2 * 8),
    ],
)
def test_distillation_takes_so_many_steps(
    teacher, patch_games, tmp_path, changes, ic_steps, ensemble_steps
):
    config = DistillConfig(
        n_timesteps=32, n_envs=4, n_steps=4, n_epochs=2, ic_batch_size=8, ensemble_batch_size=4
    )
    config = replace(config, checkpoint_interval=32, gates="none", engine="eager", **changes)
    distill(teacher, patch_games(4, size=84), config, tmp_path, seed=0, device=CPU)
    for folder, wanted in zip(
        sorted((tmp_path / "checkpoints").iterdir()), (ic_steps, ensemble_steps), strict=True
    ):
        moments = load_tensors(folder / "optimizer.safetensors")
        assert {int(t) for name, t in moments.items() if name.endswith("step")} == {wanted}


def test_schedules_of_the_supervised_pipeline():
    """Learning rates at the beginning of each epoch."""

    def rates(data):
        training = default_ic_training(data)
        n = training.n_epochs
        steps = training.learning_rates, training.milestones
        return [piecewise_rate(epoch / n, *steps) for epoch in range(n)]

    assert rates("cifar10") == rates("cifar100") == [1e-3] * 15 + [1e-4] * 35
    assert rates("tinyimagenet") == [1e-3] * 15 + [1e-4] * 25 + [1e-5] * 10
    assert rates("imagenet") == rates("oct2017") == [1e-5] * 20 + [1e-6] * 10 + [1e-7] * 10
    assert default_ic_training("cifar10").ensemble == EnsembleTraining(500, 512, 5e-4, "adam")
    assert default_ic_training("imagenet").ensemble.n_epochs == 10
