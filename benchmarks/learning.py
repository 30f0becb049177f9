"""Learning curves of one game: our PPO's beside stock Stable-Baselines3's.

Each learner plays the game with the same hyperparameters and writes the mean return of its last
100 games after every update; then all curves in the folder are drawn. One seed of each shows
whether they are far apart, not whether they are equal: that is what tests/atari/test_ppo.py and
tests/atari/test_learning_curves.py are for. Run it with ``python -m benchmarks.learning``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import tyro
from matplotlib import pyplot as plt
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger, make_output_format
from stable_baselines3.common.vec_env import SubprocVecEnv

from benchmarks import harness
from benchmarks.env import stock_env
from benchmarks.ppo import stock_ppo
from ztw_rl import recipes
from ztw_rl.atari.ppo import build_ppo
from ztw_rl.atari.vec_env import AtariVecEnv
from ztw_rl.core.device import resolve_device

STEPS, RETURN = "time/total_timesteps", "rollout/ep_rew_mean"
LEARNERS = ("SB3", "ztw-rl")


@dataclass(frozen=True)
class Settings:
    """Who learns what, for how long."""

    output: Path
    """Folder of the curves: <learner>/progress.csv, and curves.png of all that are there."""
    learners: tuple[str, ...] = LEARNERS
    """Who learns, one after another; none to draw only. Two commands may share a folder."""
    env: str = "Pong"
    """The game, with its recipe's hyperparameters."""
    n_timesteps: int = 2_000_000
    """Environment steps of each learner."""
    seed: int = 0
    """Of games, initial weights, action noise and minibatches."""
    device: str = "cpu"
    """Where the networks live: cpu, cuda, cuda:1, ..."""


def build(name: str, settings: Settings) -> PPO:
    """A learner before its first step, in the arithmetic that PyTorch has by default."""
    recipe = recipes.load(settings.env)
    device, seed = resolve_device(settings.device), settings.seed
    ours = replace(recipe.ppo, precision="tf32")
    builders: dict[str, Callable[[], PPO]] = {
        "SB3": lambda: stock_ppo(
            stock_env(
                recipe.atari.game,
                ours.n_envs,
                seed,
                recipe.atari.repeat_action_probability,
                SubprocVecEnv,
            ),
            ours,
            seed,
            device,
        ),
        "ztw-rl": lambda: build_ppo(
            AtariVecEnv(recipe.atari, ours.n_envs, seed), ours, seed, device
        ),
    }
    return builders[name]()


def learn(name: str, settings: Settings) -> None:
    """Train a learner and leave its curve."""
    folder = str(settings.output / name)
    model = build(name, settings)
    logger = Logger(folder, [make_output_format("csv", folder)])
    model.set_logger(logger)
    model.learn(settings.n_timesteps)
    logger.close()
    env = model.get_env()
    assert env is not None
    env.close()


def draw(output: Path) -> None:
    """Draw the curves in a folder and print their steps per second and last points."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for path in sorted(output.glob("*/progress.csv")):
        log = pd.read_csv(path).dropna(subset=[RETURN])
        axes.plot(log[STEPS], log[RETURN], label=path.parent.name)
        last = log.iloc[-1]
        rate = last[STEPS] / last["time/time_elapsed"]
        print(
            f"{path.parent.name}: return {last[RETURN]:.1f} after {last[STEPS]:,.0f} steps, "
            f"{rate:,.0f} steps/s"
        )
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return, mean of 100 games")
    axes.legend(frameon=False)
    figure.savefig(output / "curves.png", dpi=150)
    plt.close(figure)


def main(settings: Settings) -> None:
    """Train whoever is asked for, then draw."""
    print(harness.machine())
    for name in settings.learners:
        learn(name, settings)
    draw(settings.output)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
