"""Decisions per second in evaluation: all rows side by side against one after another.

The plain way plays one stock Atari environment, threshold after threshold, and runs the whole
eager network with all its exits at every step. Ours plays the full table (thresholds, random
controls, forced exits, backbone) in one batch of games, and stops where a sample leaves; each of
its games starts from its own seed, which the plain way spares itself. It does so in eager PyTorch,
on ONNX Runtime and on LiteRT, which need the extras ``onnx`` and ``litert``. Games are cut short.
Run it with ``python -m benchmarks.evaluate``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from stable_baselines3.common.vec_env import VecEnv

from benchmarks import harness, plain
from benchmarks.env import emulation_rate
from ztw_rl import agents
from ztw_rl.core.backends.named import make_backend
from ztw_rl.core.choice import Forced, Threshold
from ztw_rl.core.device import n_network_threads
from ztw_rl.core.exits import Exceeds, select
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import Backend
from ztw_rl.rl.agent import load_agent
from ztw_rl.rl.atari.batches import make_batches
from ztw_rl.rl.atari.vec_env import AtariVecEnv
from ztw_rl.rl.batch import EnvBatch
from ztw_rl.rl.evaluate import play
from ztw_rl.rl.rows import Full, RandomExits, Row

THRESHOLDS = tuple(k / 10 for k in range(1, 10))
EAGER, ONNX, LITERT = "ztw-rl, side by side", "on ONNX Runtime", "on LiteRT"


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    agent: str = "pong"
    """Who plays, as in ``ztw-rl eval``."""
    n_envs: int = 44
    """Games side by side, ours."""
    n_episodes: int = 2
    """Games per row in a round, ours."""
    max_frames: int = 6000
    """Emulator frames after which one of our games ends; a decision takes four."""
    plain_steps: int = 300
    """Decisions per threshold in a round, the plain way."""
    rounds: int = 2
    """Rounds that count; one more warms up."""
    seed: int = 0
    """Of the games."""


def full_table(n_exits: int) -> list[Row]:
    """Every row of an evaluation over ``THRESHOLDS``; random exits are equally likely."""
    shares = (1 / n_exits,) * n_exits
    return [
        *(Row(Threshold(threshold)) for threshold in THRESHOLDS),
        *(Row(RandomExits(shares, Threshold(threshold))) for threshold in THRESHOLDS),
        *(Row(Forced(m)) for m in range(n_exits)),
        Row(Full()),
    ]


def plain_player(model: EarlyExitModel, env: VecEnv, n_steps: int) -> Callable[[], int]:
    """The plain way, as a contender that plays ``n_steps`` at each threshold at each call."""
    rules = [Exceeds.uniform(threshold, model.n_exits) for threshold in THRESHOLDS]

    def evaluate() -> int:
        for rule in rules:
            observations = np.asarray(env.reset())
            for _ in range(n_steps):
                with torch.no_grad():
                    answers = model(torch.as_tensor(observations))
                _, by = select(answers, rule)
                actions = answers[torch.arange(len(by)), by].argmax(dim=-1)
                stepped, _, _, _ = env.step(actions.numpy())
                observations = np.asarray(stepped)
        return len(rules) * n_steps * env.num_envs

    return evaluate


def player(
    backend: Backend, batches: Sequence[EnvBatch], n_episodes: int, seed: int
) -> Callable[[], int]:
    """Ours, as a contender that plays the whole table at each call."""

    def evaluate() -> int:
        results = play(
            backend,
            batches,
            full_table(backend.n_exits),
            n_episodes=n_episodes,
            seed=seed,
            action_mode="greedy",
            device=torch.device("cpu"),
        )
        return sum(result.n_decisions for result in results)

    return evaluate


def main(settings: Settings) -> float:
    """Measure, print, and return the ratio."""
    machine = harness.machine()
    seed = settings.seed
    agent = load_agent(agents.find(settings.agent, Path("runs")))
    ours, eager = agent.model, plain.plain_network(agent.model)
    game_config = agent.config.atari
    assert game_config is not None
    atari = replace(game_config, max_frames=settings.max_frames)
    batches = make_batches(atari, settings.n_envs)
    stock, game = plain.plain_games(atari, 1, seed), AtariVecEnv(atari, 1, seed)
    plain.check_same_answers(ours, eager, np.asarray(game.reset()))
    backends = {
        name: make_backend(backend, ours, agent.example(), n_network_threads())
        for name, backend in ((EAGER, "eager"), (ONNX, "onnx"), (LITERT, "litert"))
    }
    players = {
        name: player(backend, batches, settings.n_episodes, seed)
        for name, backend in backends.items()
    }
    contenders = {
        "plain way": plain_player(eager, stock, settings.plain_steps),
        "+ our game": plain_player(eager, game, settings.plain_steps),
        "+ memory layout": plain_player(ours, game, settings.plain_steps),
        **players,
    }
    rates = harness.interleave(contenders, settings.rounds)
    at_peak = harness.rate_at_peak(
        players[EAGER],
        emulation_rate(atari, settings.n_envs, agent.config.n_actions, seed),
        harness.peak_macs(),
    )
    busy = harness.busy_rate(players[LITERT])
    for close in (*(batch.close for batch in batches), stock.close, game.close):
        close()
    plain_rate = statistics.median(rates["plain way"])
    return harness.report(
        "evaluate",
        rates,
        ours=LITERT,
        opponent="plain way",
        target=6.5,
        machine_line=machine,
        ratio_eager=round(harness.ratio(rates, EAGER, "plain way"), 3),
        ratio_onnx=round(harness.ratio(rates, ONNX, "plain way"), 3),
        game=atari.game,
        n_envs=settings.n_envs,
        n_rows=len(full_table(ours.n_exits)),
        bound=round(busy / plain_rate, 3),
        bound_at_peak=round(at_peak / plain_rate, 3),
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
