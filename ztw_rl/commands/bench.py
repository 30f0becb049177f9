"""``ztw-rl bench``: how long an agent's decisions take, by backend, batch size and threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import tyro

from ztw_rl import agents, runs
from ztw_rl.commands._arguments import read
from ztw_rl.commands._bench import KIND, BenchSettings, measure, report
from ztw_rl.core.settings import Seed
from ztw_rl.errors import UserError
from ztw_rl.points.policy import OperatingPoint, choose

if TYPE_CHECKING:
    from torch import Tensor

    from ztw_rl.core.runtime import Runtime
    from ztw_rl.rl.agent import Agent

EVERY = 8
"""Decisions from one kept observation to the next, for the mix to be that of whole games."""


@dataclass(frozen=True)
class Bench(BenchSettings):
    """Time an agent's decisions: the full network, each forced exit, none, and its own mix.

    Writes bench.csv and bench.png. All cases of a backend are timed in turns, on frames that the
    agent meets when it plays.
    """

    agent: str | None = None
    """A shipped agent's name, an agent's folder or a distillation run; by default the newest
    distillation run, else the shipped agent."""
    seed: Seed = 0
    """Of the games that supply the frames."""
    point: tyro.conf.OmitArgPrefixes[OperatingPoint] = field(default_factory=OperatingPoint)
    """The threshold of the mix."""


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl bench --help``.

    Returns:
        0.

    Raises:
        UserError: The command line or the agent has an error, or a package is missing.
    """
    args = read(Bench, arguments, "ztw-rl bench")
    runs.check_writable(args.output or args.runs_dir / KIND)
    folder = agents.find(args.agent, args.runs_dir)

    from ztw_rl.rl.agent import load_agent
    from ztw_rl.rl.atari.games import canonical

    agent = load_agent(folder)
    if not agent.has_exits:
        raise UserError(f"{folder} is a student, without exits to time; ztw-rl eval times it whole")

    def frames(runtime: Runtime) -> Tensor:
        return play_frames(agent, runtime, max(args.batch_sizes), args.seed)

    choice = choose(args.point, agent, folder, args.runs_dir)
    groups = measure(args, agent, choice, frames)
    report(args, groups, canonical(agent.config.atari.game), choice, folder, args.seed)
    return 0


def play_frames(agent: Agent, runtime: Runtime, n_least: int, seed: int) -> Tensor:
    """(N, frame_stack, H, W) observations of games that the agent plays greedily, exits open."""
    import numpy as np
    import torch

    from ztw_rl.rl.atari.vec_env import AtariVecEnv

    env = AtariVecEnv(agent.config.atari, 8, seed)
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
