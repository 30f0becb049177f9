"""Learning curves of one game: our PPO's beside stock Stable-Baselines3's.

Each learner plays the game with the same hyperparameters and writes the mean return of its last
100 games after every update; then all curves in the folder are drawn. ``SB3-our-games`` differs
from ours in the learner alone, ``SB3`` in the wrappers around the game as well. A few seeds show
what to expect of each, not whether they are equal: that is what tests/rl/test_fast_ppo.py and
tests/rl/test_learning_curves.py are for. Run it with ``python -m benchmarks.learning``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import tyro
from matplotlib import pyplot as plt
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger, make_output_format
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from benchmarks import harness
from benchmarks.env import stock_env
from benchmarks.ppo import stock_ppo
from ztw_rl import recipes
from ztw_rl.core.device import resolve_device
from ztw_rl.rl.atari.vec_env import AtariVecEnv
from ztw_rl.rl.ppo import build_ppo

STEPS, RETURN = "time/total_timesteps", "rollout/ep_rew_mean"
Learner = Literal["SB3", "SB3-our-games", "ztw-rl"]
LEARNERS: tuple[Learner, ...] = ("SB3", "SB3-our-games", "ztw-rl")


@dataclass(frozen=True)
class Settings:
    """Who learns what, for how long."""

    output: Path
    """Folder of the curves: <learner>/<seed>/progress.csv, and curves.png of all that are there."""
    learners: tuple[Learner, ...] = LEARNERS
    """Who learns, one after another; none to draw only. Several commands may share a folder."""
    env: str = "Pong"
    """The game, with PPO's hyperparameters from its recipe; ``SB3`` has its own wrappers."""
    n_timesteps: int = 2_000_000
    """Environment steps of each learner."""
    seed: int = 0
    """Of games, initial weights, action noise and minibatches."""
    device: str = "cpu"
    """Where the networks live: cpu, cuda, cuda:1, ..."""


def build(name: Learner, settings: Settings) -> PPO:
    """A learner before its first step, in the arithmetic that PyTorch has by default."""
    recipe = recipes.load(settings.env)
    atari, config = recipe.atari, replace(recipe.ppo, precision="tf32")
    device, seed = resolve_device(settings.device), settings.seed

    def ours() -> AtariVecEnv:
        return AtariVecEnv(atari, config.n_envs, seed)

    def stock() -> VecEnv:
        sticky = atari.repeat_action_probability
        return stock_env(atari.game, config.n_envs, seed, sticky, SubprocVecEnv)

    builders: dict[Learner, Callable[[], PPO]] = {
        "SB3": lambda: stock_ppo(stock(), config, seed, device),
        "SB3-our-games": lambda: stock_ppo(ours(), config, seed, device),
        "ztw-rl": lambda: build_ppo(ours(), config, seed, device),
    }
    return builders[name]()


def learn(name: Learner, settings: Settings) -> None:
    """Train a learner and leave its curve."""
    folder = str(settings.output / name / str(settings.seed))
    model = build(name, settings)
    logger = Logger(folder, [make_output_format("csv", folder)])
    model.set_logger(logger)
    model.learn(settings.n_timesteps)
    logger.close()
    env = model.get_env()
    assert env is not None
    env.close()


def draw(output: Path, n_timesteps: int) -> None:
    """Draw the curves in a folder; print where each stands after quarters of ``n_timesteps``."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for colour, name in enumerate(LEARNERS):
        label: str = name
        for path in sorted(output.glob(f"{name}/*/progress.csv")):
            log = pd.read_csv(path)
            if RETURN not in log:
                print(f"{name}, seed {path.parent.name}: no game has ended yet")
                continue
            log = log.dropna(subset=[RETURN]).reset_index(drop=True)
            axes.plot(log[STEPS], log[RETURN], color=f"C{colour}", lw=1, label=label)
            label = "_"
            steps, returns = log[STEPS], log[RETURN]
            quarters = [n_timesteps * i // 4 for i in range(1, 5)]
            marks = [mark for mark in quarters if steps.min() <= mark <= steps.max()]
            if steps.max() < n_timesteps:
                marks.append(int(steps.max()))
            shown = ", ".join(
                f"{np.interp(mark, steps, returns):.1f} after {mark:,}" for mark in marks
            )
            rate = steps.max() / log["time/time_elapsed"].iloc[-1]
            print(f"{name}, seed {path.parent.name}: {shown} steps; {rate:,.0f} steps/s")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return, mean of 100 games")
    if axes.get_lines():
        axes.legend(frameon=False)
    output.mkdir(parents=True, exist_ok=True)
    figure.savefig(output / "curves.png", dpi=150)
    plt.close(figure)


def main(settings: Settings) -> None:
    """Train whoever is asked for, then draw."""
    print(harness.machine())
    for name in settings.learners:
        learn(name, settings)
    draw(settings.output, settings.n_timesteps)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
