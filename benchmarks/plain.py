"""The plain way to run an early-exit network: eager, in PyTorch's default memory format."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecTransposeImage
from torch import Tensor, nn

from benchmarks.env import stock_env
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.training import freeze
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.networks.config import NetworkConfig
from ztw_rl.rl.networks.early_exit import early_exit_policy


class PlainPixels(nn.Module):
    """uint8 pixels to floats in 0 … 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale (B, C, H, W)."""
        return x.float() / 255.0


def random_network(n_actions: int, seed: int) -> EarlyExitModel:
    """A policy with two internal classifiers (ICs) and ensembles, its weights random; frozen.

    Args:
        n_actions: Size of the action space.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    network = NetworkConfig()
    model = early_exit_policy(n_actions, network, network.default_exits)
    freeze(model)
    return model


def plain_network(model: EarlyExitModel) -> EarlyExitModel:
    """The same weights without the layouts that make ``model`` fast."""
    plain = copy.deepcopy(model)
    plain.blocks[0] = PlainPixels()
    for parameter in plain.parameters():
        parameter.data = parameter.data.contiguous()
    return plain


def plain_games(config: AtariConfig, n_envs: int, seed: int) -> VecEnv:
    """Stock Atari wrappers one after another in this process; (N, 4, 84, 84) observations."""
    sticky = config.repeat_action_probability
    return VecTransposeImage(stock_env(config.game, n_envs, seed, sticky, DummyVecEnv))


def check_same_answers(
    model: EarlyExitModel, plain: EarlyExitModel, observations: npt.NDArray[np.uint8]
) -> None:
    """Raise AssertionError unless both networks say the same, so that only speed differs."""
    x = torch.as_tensor(observations)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x), rtol=1e-3, atol=1e-3)
