"""What an agent sees when it plays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ztw_rl.core.runtime import Runtime
from ztw_rl.rl.agent import Agent
from ztw_rl.rl.environments import make_vec_env

EVERY = 8
"""Decisions from one kept observation to the next, for the mix to be that of whole games."""


def play_frames(agent: Agent, runtime: Runtime, n_least: int, seed: int) -> Tensor:
    """Observations of games that an agent plays greedily, exits open.

    Args:
        agent: Whose environment it is.
        runtime: What answers.
        n_least: Observations.
        seed: Of the games.

    Returns:
        (N, …), no fewer than ``n_least``, only every ``EVERY``-th of a game.
    """
    env = make_vec_env(agent.config.environment, 8, seed)
    kept = []
    try:
        observations = np.asarray(env.reset())
        for step in range(EVERY * max(64, -(-n_least // 8))):
            if step % EVERY == 0:
                kept.append(torch.from_numpy(observations.copy()))
            actions = runtime.predict(torch.from_numpy(observations)).actions
            observations = np.asarray(env.step(actions)[0])
    finally:
        env.close()
    return torch.cat(kept)
