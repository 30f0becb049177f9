from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.vec_env import AtariVecEnv


@pytest.fixture
def pong() -> Iterator[AtariVecEnv]:
    """Two games of Pong that begin alike."""
    env = AtariVecEnv(AtariConfig(game="pong", noop_max=0), 2, n_threads=1)
    yield env
    env.close()


def _train_once(model: PPO, progress_remaining: float = 1.0) -> None:
    """Learn from the rollout that the buffer holds, its minibatches drawn with a fixed seed."""
    model.set_logger(Logger(None, []))
    model._current_progress_remaining = progress_remaining
    np.random.seed(0)  # noqa: NPY002 - SB3 shuffles minibatches with the global generator.
    model.train()


@pytest.fixture(scope="session")
def train_once() -> Callable[..., None]:
    """See ``_train_once``."""
    return _train_once
