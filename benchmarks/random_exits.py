"""What random exits lose, before any gate is trained: the headroom of all rules.

At each cost, exits are drawn with the most even shares that cost so much. Games are not those of
any table. Run it with ``python -m benchmarks.random_exits --agents AGENT ...``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from scipy import optimize, special

from benchmarks import harness
from ztw_rl import agents, recipes
from ztw_rl.core.backends.named import make_backend
from ztw_rl.core.choice import Threshold
from ztw_rl.core.statistics import interval, mean_ratio
from ztw_rl.rl.agent import load_agent
from ztw_rl.rl.calibrate import SEED, check_costs
from ztw_rl.rl.config import ActionMode
from ztw_rl.rl.environments import begins_with, make_batches
from ztw_rl.rl.evaluate import play
from ztw_rl.rl.rows import Full, RandomExits, Row

NOOP_MAX = 30


@dataclass(frozen=True)
class Settings:
    """What is played."""

    agents: tuple[str, ...]
    """Names or folders."""
    costs: tuple[float, ...] = (0.45, 0.6, 0.75)
    """Mean costs of a decision, the full policy's being 1."""
    modes: tuple[ActionMode, ...] = ("sample", "greedy")
    """How actions follow from probabilities."""
    n_episodes: int = 100
    """Games of each row."""
    seed: int = SEED
    """Game k has seed + k."""
    backend: str = "onnx"
    """What runs the network."""


def even_shares(costs: Sequence[float], aim: float) -> tuple[float, ...]:
    """Of all shares with a mean cost, those of the highest entropy.

    Args:
        costs: (E,) of leaving at each exit.
        aim: The mean, between the lowest and the highest.

    Returns:
        (E,) shares.
    """
    price = np.asarray(costs, float)

    def off(slope: float) -> float:
        return float(special.softmax(slope * price) @ price - aim)

    found: tuple[float, ...] = tuple(
        special.softmax(optimize.brentq(off, -200, 200) * price).tolist()
    )
    return found


def main(settings: Settings) -> None:
    """Play and print."""
    print(harness.machine())
    print(f"{settings.n_episodes} games a row, seeds from {settings.seed}\n", flush=True)
    print("| game | actions | full | " + " | ".join(f"{c:g}" for c in settings.costs) + " |")
    print("|---|---|---" + "|---" * len(settings.costs) + "|", flush=True)
    for name in settings.agents:
        agent = load_agent(agents.find(name, Path("runs")))
        environment = begins_with(agent.config.environment, NOOP_MAX)
        random_return = recipes.of(environment).random_return
        assert random_return is not None
        costs = agent.relative_macs()
        check_costs(settings.costs, costs, "confidence")
        mixes = [RandomExits(even_shares(costs, c), Threshold(1.0)) for c in settings.costs]
        batches = make_batches(environment, 32)
        backend = make_backend(settings.backend, agent.model, agent.example())
        for mode in settings.modes:
            full, *drawn = play(
                backend,
                batches,
                [Row(Full()), *map(Row, mixes)],
                n_episodes=settings.n_episodes,
                seed=settings.seed,
                action_mode=mode,
                device=torch.device("cpu"),
            )
            best = np.array(full.returns)
            cells = []
            for row in drawn:
                lost = best - np.array(row.returns)
                share = interval(mean_ratio([("", lost, best - random_return)]))
                cells.append(f"{share.center:.1%} ({share.low:.1%} to {share.high:.1%})")
            told = [environment.name, mode, f"{best.mean():,.1f}", *cells]
            print("| " + " | ".join(told) + " |", flush=True)
        for emulators in batches:
            emulators.close()


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
