from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from ztw_rl.rl.frame_buffer import FrameBuffer

N_STEPS, N_ENVS = 3, 2
SHAPE = (4, 6, 5)


@pytest.fixture
def buffers():
    """Both kinds, filled with the same rollout."""
    made = [
        kind(N_STEPS, spaces.Box(0, 255, SHAPE, np.uint8), spaces.Discrete(3), "cpu", 0.95, 0.99, 2)
        for kind in (FrameBuffer, RolloutBuffer)
    ]
    fill(made, seed=0)
    return made


def fill(buffers, seed):
    rng = np.random.default_rng(seed)
    for _ in range(N_STEPS):
        obs = rng.integers(0, 256, (N_ENVS, *SHAPE), np.uint8)
        action = rng.integers(0, 3, N_ENVS)
        reward, start = rng.normal(size=N_ENVS), rng.integers(0, 2, N_ENVS)
        value, log_prob = torch.tensor(rng.normal(size=(2, N_ENVS)), dtype=torch.float32)
        for buffer in buffers:
            buffer.add(obs, action, reward, start, value, log_prob)
        obs[:] = 0  # The games reuse their memory.
    for buffer in buffers:
        buffer.compute_returns_and_advantage(torch.zeros(N_ENVS), np.zeros(N_ENVS))


def minibatches(buffer):
    np.random.seed(0)  # noqa: NPY002 - SB3 shuffles minibatches with the global generator.
    return list(buffer.get(4))


def test_minibatches_are_those_of_sb3s_buffer(buffers):
    for rollout in range(2):
        ours, stock = map(minibatches, buffers)
        assert [len(m.actions) for m in ours] == [4, 2]
        for a, b in zip(ours, stock, strict=True):
            torch.testing.assert_close(a._asdict(), b._asdict(), rtol=0, atol=0)
        # A second epoch sees the same.
        torch.testing.assert_close(minibatches(buffers[0])[1]._asdict(), ours[1]._asdict())
        # The next rollout goes into the same memory.
        for buffer in buffers:
            buffer.reset()
        fill(buffers, seed=1 + rollout)


def test_pictures_are_channels_last(buffers):
    pictures = minibatches(buffers[0])[0].observations
    assert pictures.dtype is torch.uint8
    assert pictures.shape == (4, *SHAPE)
    assert pictures.is_contiguous(memory_format=torch.channels_last)
