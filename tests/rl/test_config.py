from __future__ import annotations

import pytest

from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.config import DistillConfig, EvaluationConfig, PPOConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_envs": 0}, "n_envs must be at least 1, not 0"),
        ({"n_timesteps": 0}, "n_timesteps must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"batch_size": 1025}, r"at most one rollout, n_envs \* n_steps = 1024, not 1025"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0 and finite, not nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0 and finite, not inf"),
        ({"gamma": 1.1}, "gamma must be between 0 and 1, not 1.1"),
        ({"ent_coef": -0.1}, "ent_coef must be at least 0"),
    ],
)
def test_ppo_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        PPOConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame_skip": 0}, "frame_skip must be at least 1"),
        ({"screen_size": 35}, "screen_size must be at least 36"),
        ({"repeat_action_probability": -0.1}, "between 0 and 1"),
        ({"noop_max": -1}, "noop_max must be between 0 and 1000, not -1"),
        ({"noop_max": 1001}, "noop_max must be between 0 and 1000, not 1001"),
    ],
)
def test_atari_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        AtariConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_envs": 0}, "n_envs must be at least 1"),
        ({"ic_batch_size": 0}, "ic_batch_size must be at least 1"),
        ({"learning_rates": (1e-2, -1e-3, 1e-4)}, "learning_rates must be all above 0"),
        ({"milestones": (0.75, 0.1)}, "milestones must be rising shares between 0 and 1"),
        ({"milestones": (0.1, 1.5)}, "milestones must be rising shares between 0 and 1"),
        ({"milestones": (0.1,)}, "milestones must be one fewer than the learning_rates"),
        (
            {"method": "student", "pixel_learning_rates": (0.0, 1e-3, 1e-4)},
            r"pixel_learning_rates must be all above 0 and finite, not \(0.0, 0.001, 0.0001\)",
        ),
        (
            {"method": "student", "milestones": (0.1,)},
            "milestones must be one fewer than the pixel_learning_rates",
        ),
        (
            {"exits": ("input", "conv1"), "pixel_learning_rates": (1e-3,)},
            "milestones must be one fewer than the pixel_learning_rates",
        ),
    ],
)
def test_distillation_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        DistillConfig(**settings)


@pytest.mark.parametrize("name", ["n_episodes", "n_envs"])
def test_evaluation_settings_out_of_range(name):
    with pytest.raises(UserError, match=f"{name} must be at least 1, not 0"):
        EvaluationConfig(**{name: 0})


def test_evaluated_starts_out_of_range():
    with pytest.raises(UserError, match="noop_max must be between 0 and 1000, not -1"):
        EvaluationConfig(noop_max=-1)


def test_rates_that_nothing_learns_at_need_not_fit():
    DistillConfig(method="student", pixel_learning_rates=(1e-3,), milestones=())
    DistillConfig(learning_rates=(1e-3,), milestones=())


def test_the_edges_are_allowed():
    PPOConfig(n_envs=1, n_steps=2, batch_size=2, gamma=1.0, gae_lambda=0.0, ent_coef=0.0)
    AtariConfig(frame_skip=1, screen_size=36, repeat_action_probability=0.0)
