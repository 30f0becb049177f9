"""Environment steps per second: ours against ``make_atari_env`` of Stable-Baselines3.

Both play the same actions with the same sticky actions, frame skip and frame stack, and both
clip rewards and end episodes with each life. A third row is ALE's own batch with nothing around
it, which bounds what anybody can reach with it. Run it with ``python -m benchmarks.env``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ale_py
import gymnasium as gym
import numpy as np
import numpy.typing as npt
import tyro
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack

from benchmarks import harness
from ztw_rl.rl.atari.config import AtariConfig, rom_id
from ztw_rl.rl.atari.vec_env import AtariVecEnv

EMULATION_STEPS = 6400
StockVecEnv = type[DummyVecEnv] | type[SubprocVecEnv]


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    env: str = "Pong"
    """The game."""
    n_envs: int = 8
    """Games side by side."""
    n_steps: int = 400
    """Steps of every game in a round."""
    rounds: int = 7
    """Rounds that count; one more warms up."""
    seed: int = 0
    """Of the games and the actions."""


def stock_env(game: str, n_envs: int, seed: int, sticky: float, vec_env: StockVecEnv) -> VecEnv:
    """SB3's own batch of a game: its wrappers, its frame stack."""
    gym.register_envs(ale_py)
    name = game.title().replace("_", "")
    env = make_atari_env(
        f"{name}NoFrameskip-v4",
        n_envs=n_envs,
        seed=seed,
        env_kwargs={"repeat_action_probability": sticky},
        vec_env_cls=vec_env,
    )
    return VecFrameStack(env, 4)


def player(env: VecEnv, actions: npt.NDArray[np.int64]) -> Callable[[], int]:
    """A contender that plays all ``actions`` (n_steps, n_envs) at each call."""
    env.reset()

    def play() -> int:
        for row in actions:
            env.step(row)
        return actions.size

    return play


def ale_alone(config: AtariConfig, actions: npt.NDArray[np.int64]) -> Callable[[], int]:
    """A contender that steps ALE's batch of games and looks at nothing that it returns."""
    env = AtariVectorEnv(
        config.game,
        actions.shape[1],
        repeat_action_probability=config.repeat_action_probability,
        noop_max=config.noop_max,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    env.reset(seed=0)

    def play() -> int:
        for row in actions:
            env.step(row)
        return actions.size

    return play


def emulation_rate(config: AtariConfig, n_envs: int, n_actions: int, seed: int) -> float:
    """Steps per second of ALE alone under random actions, at its best of a few rounds.

    Args:
        config: The game.
        n_envs: Games side by side.
        n_actions: Size of the action space.
        seed: Of the actions.
    """
    rng = np.random.default_rng(seed)
    actions = rng.integers(n_actions, size=(EMULATION_STEPS // n_envs, n_envs))
    return max(harness.interleave({"": ale_alone(config, actions)}, rounds=3)[""])


def main(settings: Settings) -> float:
    """Measure, print, and return the ratio to SB3's faster batch."""
    machine = harness.machine()
    config = AtariConfig(game=rom_id(settings.env))
    stock = (config.game, settings.n_envs, settings.seed, config.repeat_action_probability)
    envs: dict[str, VecEnv] = {
        "ztw-rl": AtariVecEnv(config, settings.n_envs, settings.seed),
        "SB3 DummyVecEnv": stock_env(*stock, DummyVecEnv),
        "SB3 SubprocVecEnv": stock_env(*stock, SubprocVecEnv),
    }
    shape = (settings.n_steps, settings.n_envs)
    n_actions = envs["ztw-rl"].action_space.n  # type: ignore[attr-defined]
    actions = np.random.default_rng(settings.seed).integers(n_actions, size=shape)
    contenders = {name: player(env, actions) for name, env in envs.items()}
    rates = harness.interleave(
        {**contenders, "ALE alone": ale_alone(config, actions)}, settings.rounds
    )
    for env in envs.values():
        env.close()
    opponent = harness.fastest(rates, ["SB3 DummyVecEnv", "SB3 SubprocVecEnv"])
    return harness.report(
        "env",
        rates,
        ours="ztw-rl",
        opponent=opponent,
        target=2.2,
        machine_line=machine,
        game=config.game,
        n_envs=settings.n_envs,
        ratio_default=round(harness.ratio(rates, "ztw-rl", "SB3 DummyVecEnv"), 3),
        bound=round(harness.ratio(rates, "ALE alone", opponent), 3),
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
