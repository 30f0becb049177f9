"""PPO steps per second: ours against stock Stable-Baselines3 with its own Atari wrappers.

Every contender trains a network with the same hyperparameters and sticky actions; a turn is one
rollout and its update. The rows between the stock one and ours add one change at a time. Run it
with ``python -m benchmarks.ppo``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from benchmarks import harness
from benchmarks.env import emulation_rate, stock_env
from ztw_rl.core.device import resolve_device
from ztw_rl.rl.atari.config import AtariConfig, rom_id
from ztw_rl.rl.atari.vec_env import AtariVecEnv
from ztw_rl.rl.config import PPOConfig, Precision
from ztw_rl.rl.policy import ChannelsLastCnnPolicy
from ztw_rl.rl.ppo import build_ppo, scheduled

TARGETS = {"cpu": 2.5, "cuda": 5.0}
BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    env: str = "Pong"
    """The game."""
    n_envs: int = 8
    """Games side by side."""
    n_steps: int = 128
    """Steps of every game between two updates."""
    rounds: int = 6
    """Rounds that count; one more warms up."""
    seed: int = 0
    """Of the games and the weights."""
    device: str = "cpu"
    """Where all contenders' networks live: cpu, cuda, cuda:1, ..."""
    compiled: bool = False
    """One more row: ours, learning through torch.compile."""


def stock_ppo(
    env: VecEnv,
    config: PPOConfig,
    seed: int,
    device: torch.device,
    policy: type[ActorCriticCnnPolicy] = ActorCriticCnnPolicy,
) -> PPO:
    """SB3's PPO, its policy aside, as it comes, with the hyperparameters of ``config``.

    The tests hold ours against it as well: whatever makes it faster belongs elsewhere.
    """
    return PPO(
        policy,
        env,
        learning_rate=scheduled(config.learning_rate, config.schedule),
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=scheduled(config.clip_range, config.schedule),
        ent_coef=config.ent_coef,
        vf_coef=config.vf_coef,
        max_grad_norm=config.max_grad_norm,
        seed=seed,
        device=device,
    )


def learner(ppo: PPO) -> Callable[[], int]:
    """A contender that plays one rollout and learns from it at each call."""
    n_timesteps = ppo.n_steps * ppo.n_envs

    def learn() -> int:
        ppo.learn(n_timesteps, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
        return n_timesteps

    return learn


def update_seconds(ppo: PPO, repeats: int = 5) -> float:
    """Median duration of an update from the rollout that ``ppo`` has."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        # It ends by reading its losses, so the device has finished.
        ppo.train()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def bfloat16_instructions() -> list[str]:
    """Which of the processor's instructions multiply bfloat16, where it can be told."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return [name for name in BFLOAT16_INSTRUCTIONS if name in flags]


def main(settings: Settings) -> float:
    """Measure, print, and return the ratio in stock PPO's arithmetic."""
    machine = harness.machine()
    atari = AtariConfig(game=rom_id(settings.env))
    config = PPOConfig(n_envs=settings.n_envs, n_steps=settings.n_steps)
    # Stock PPO as it comes: on CUDA its convolutions multiply in TF32, PyTorch's default.
    seed, device = settings.seed, resolve_device(settings.device)
    is_cuda = device.type == "cuda"
    precision: Precision = "tf32" if is_cuda else "float32"
    tried: list[Precision] = ["float32", "bfloat16"]
    if is_cuda:
        tried.insert(1, "tf32")
    ours_name = f"ztw-rl {precision}"

    def ours() -> AtariVecEnv:
        return AtariVecEnv(atari, settings.n_envs, seed)

    def stock(vec_env: type[DummyVecEnv] | type[SubprocVecEnv]) -> VecEnv:
        sticky = atari.repeat_action_probability
        return stock_env(atari.game, settings.n_envs, seed, sticky, vec_env)

    learners = {
        "SB3, DummyVecEnv": stock_ppo(stock(DummyVecEnv), config, seed, device),
        "SB3, SubprocVecEnv": stock_ppo(stock(SubprocVecEnv), config, seed, device),
        "SB3, our games": stock_ppo(ours(), config, seed, device),
        "+ channels-last": stock_ppo(ours(), config, seed, device, ChannelsLastCnnPolicy),
    }
    for each in tried:
        learners[f"ztw-rl {each}"] = build_ppo(
            ours(), replace(config, precision=each), seed, device
        )
    if settings.compiled:
        compiled = replace(config, precision=precision, compiled=True)
        learners[f"{ours_name}, compiled"] = build_ppo(ours(), compiled, seed, device)
    contenders = {name: learner(ppo) for name, ppo in learners.items()}
    rates = harness.interleave(contenders, settings.rounds)
    n_actions = int(learners[ours_name].action_space.n)  # type: ignore[attr-defined]
    opponent = harness.fastest(rates, ["SB3, DummyVecEnv", "SB3, SubprocVecEnv"])
    emulation = emulation_rate(atari, settings.n_envs, n_actions, seed)
    update = update_seconds(learners[ours_name]) / (settings.n_envs * settings.n_steps)
    reachable = {"bound_emulation": emulation, "bound_update": 1 / (1 / emulation + update)}
    if not is_cuda:
        reachable["bound_at_peak"] = harness.rate_at_peak(
            contenders[ours_name], emulation, harness.peak_macs()
        )
    opponent_rate = statistics.median(rates[opponent])
    bounds = {name: round(rate / opponent_rate, 3) for name, rate in reachable.items()}
    for ppo in learners.values():
        env = ppo.get_env()
        assert env is not None
        env.close()
    instructions = bfloat16_instructions()
    print(f"bfloat16 instructions of this processor: {', '.join(instructions) or 'none known'}")
    return harness.report(
        "ppo",
        rates,
        ours=ours_name,
        opponent=opponent,
        target=TARGETS[device.type],
        machine_line=machine,
        game=atari.game,
        n_envs=settings.n_envs,
        device=str(device),
        **bounds,
        ratio_bfloat16=round(harness.ratio(rates, "ztw-rl bfloat16", opponent), 3),
        bfloat16_instructions=instructions,
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
