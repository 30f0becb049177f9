"""Distillation steps per second, both phases: ours against the plain way.

The plain way plays stock Atari wrappers in a DummyVecEnv, asks the full eager network at every
step, and runs it again, trunk included, on every minibatch of every epoch; its trunk is frozen,
so no gradient is computed there. Batch sizes, optimiser and exits are the same for all. A turn is
one rollout and its five epochs. The policy has random weights. Run it with
``python -m benchmarks.distill``.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import tyro
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from benchmarks import harness, plain
from benchmarks.env import emulation_rate
from ztw_rl.core.bench import threads
from ztw_rl.core.device import n_network_threads
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.training import kl_to_teacher, set_learning_rate
from ztw_rl.rl.atari.batches import in_background, make_emulators
from ztw_rl.rl.atari.config import AtariConfig, rom_id
from ztw_rl.rl.atari.vec_env import AtariVecEnv
from ztw_rl.rl.collector import Collector, Experience
from ztw_rl.rl.config import DistillConfig
from ztw_rl.rl.distill import build_optimizer
from ztw_rl.rl.phases import Epochs, build_phases

LEARNING_RATE = 1e-3
PHASES = ("ics", "ensemble")
EAGER, FASTEST = "ztw-rl", "ztw-rl, trunk on LiteRT"


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    env: str = "Pong"
    """The game."""
    n_envs: int = 8
    """Games side by side."""
    n_steps: int = 128
    """Steps of every game between two updates."""
    rounds: int = 5
    """Rounds that count; one more warms up."""
    seed: int = 0
    """Of the games, the weights, the draws and the minibatches."""


def plain_distiller(
    model: EarlyExitModel, env: VecEnv, phase: int, config: DistillConfig, seed: int
) -> Callable[[], int]:
    """The plain way, as a contender that does one rollout and its epochs at each call.

    Args:
        model: The network; its trunk is frozen.
        env: Games with (N, 4, 84, 84) observations.
        phase: 0 fits the ICs, 1 the ensembles.
        config: Sizes.
        seed: Of the draws and the minibatches.
    """
    n_ics = model.n_exits - 1
    ensemble = model.ensemble
    assert ensemble is not None
    learns = list((model.ics, ensemble)[phase].parameters())
    for parameter in learns:
        parameter.requires_grad_(True)
    batch_size = (config.ic_batch_size, config.ensemble_batch_size)[phase]
    optimizer = build_optimizer(learns)
    set_learning_rate(optimizer, LEARNING_RATE)
    rng = np.random.default_rng(seed)
    last_observations = np.asarray(env.reset())

    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, E−1, A) log-probabilities of the ICs, alone or ensembled; what the last one reads."""
        ics = list(islice(model.exits(x), n_ics))
        log_probs = torch.log_softmax(torch.stack([ic.logits for ic in ics], dim=1), dim=-1)
        return (model.ensembled(log_probs) if phase else log_probs), ics[-1].features

    def distil() -> int:
        nonlocal last_observations
        observations, teacher = [], []
        for _ in range(config.n_steps):
            x = torch.tensor(last_observations)
            with torch.no_grad():
                log_probs, read = network(x)
                head = model.head(model.segments[-1].read(read))
            drawn = rng.integers(n_ics, size=env.num_envs)
            actions = log_probs.argmax(dim=-1).numpy()[np.arange(env.num_envs), drawn]
            observations.append(x)
            teacher.append(torch.log_softmax(head, dim=-1))
            stepped, _, _, _ = env.step(actions)
            last_observations = np.asarray(stepped)
        x, target = torch.cat(observations), torch.cat(teacher)
        for _ in range(config.n_epochs):
            order = torch.from_numpy(rng.permutation(len(x)))
            for index in torch.split(order, batch_size):
                loss = kl_to_teacher(network(x[index])[0], target[index])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return len(x)

    return distil


def distiller(
    model: EarlyExitModel, collector: Collector, phase: int, config: DistillConfig, seed: int
) -> Callable[[], int]:
    """Ours, as a contender that does one rollout, and the previous one's epochs, at each call."""
    fitted = build_phases(model, config)[phase]
    learns = list(fitted.parameters())
    for parameter in learns:
        parameter.requires_grad_(True)
    optimizer = build_optimizer(learns)
    set_learning_rate(optimizer, LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)

    def learn(experience: Experience) -> Epochs:
        return Epochs(fitted, experience, optimizer, config.n_epochs, generator)

    learning = learn(collector.collect(fitted.answers, fitted.reads))

    def distil() -> int:
        nonlocal learning
        with threads(n_network_threads()):
            experience = collector.collect(fitted.answers, fitted.reads, learning.advance)
            learning.finish()
        learning = learn(experience)
        return len(experience)

    return distil


def main(settings: Settings) -> float:
    """Measure, print, and return the smaller of the two phases' ratios."""
    machine = harness.machine()
    seed, n_envs = settings.seed, settings.n_envs
    atari = AtariConfig(game=rom_id(settings.env))
    config = DistillConfig(n_envs=n_envs, n_steps=settings.n_steps)
    contenders: dict[str, Callable[[], int]] = {}
    closing: list[Callable[[], None]] = []
    for phase, name in enumerate(PHASES):
        games_of = {
            trunk: in_background(lambda: make_emulators(atari, n_envs))
            for trunk in (EAGER, FASTEST)
        }
        n_actions = int(games_of[EAGER].action_space.n)
        ours = plain.random_network(n_actions, seed)
        networks = {trunk: copy.deepcopy(ours) for trunk in games_of}
        collectors = {
            trunk: Collector(
                networks[trunk],
                emulators,
                n_steps=config.n_steps,
                behaviour=config.behaviour,
                action_modes=[config.action_mode],
                seed=seed,
                device=torch.device("cpu"),
                engine="eager" if trunk == EAGER else "fastest",
            )
            for trunk, emulators in games_of.items()
        }
        stock, games = plain.plain_games(atari, n_envs, seed), AtariVecEnv(atari, n_envs, seed)
        layouts = AtariVecEnv(atari, n_envs, seed)
        eager = plain.plain_network(ours)
        plain.check_same_answers(ours, eager, np.asarray(games.reset()))
        sizes = (phase, config, seed)
        contenders |= {
            f"{name}: plain way": plain_distiller(eager, stock, *sizes),
            f"{name}: + our games": plain_distiller(plain.plain_network(ours), games, *sizes),
            f"{name}: + memory layout": plain_distiller(copy.deepcopy(ours), layouts, *sizes),
            **{
                f"{name}: {trunk}": distiller(networks[trunk], collector, *sizes)
                for trunk, collector in collectors.items()
            },
        }
        closing += [emulators.close for emulators in games_of.values()]
        closing += [stock.close, games.close, layouts.close]
    rates = harness.interleave(contenders, settings.rounds)
    own = {name: contenders[f"{name}: {FASTEST}"] for name in PHASES}
    busy = {name: harness.busy_rate(contender) for name, contender in own.items()}
    emulation = emulation_rate(atari, n_envs, n_actions, seed)
    peak = harness.peak_macs()
    at_peak = {
        name: harness.rate_at_peak(contender, emulation, peak) for name, contender in own.items()
    }
    for close in closing:
        close()
    print(f"distill: {machine}")
    ratios, bounds = {}, {}
    for name in PHASES:
        rows = {who: each for who, each in rates.items() if who.startswith(name)}
        harness.show(rows, f"{name}: plain way")
        ratios[f"ratio_{name}"] = round(
            harness.ratio(rates, f"{name}: {FASTEST}", f"{name}: plain way"), 3
        )
        plain_rate = statistics.median(rates[f"{name}: plain way"])
        bounds[f"bound_{name}"] = round(busy[name] / plain_rate, 3)
        bounds[f"bound_at_peak_{name}"] = round(at_peak[name] / plain_rate, 3)
    return harness.conclude(
        "distill",
        min(ratios.values()),
        6.0,
        rates,
        machine,
        game=atari.game,
        n_envs=n_envs,
        **ratios,
        **bounds,
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
