"""Ways to decide when to leave, at one cost: what each wins back of what random exits lose.

Random exits leave as often as the gate does, and cost what it costs. What they lose of the full
policy's return is the headroom; 0 is their score, 1 the full policy's. All ways play the same
games, at thresholds that other games gave. Run it with
``python -m benchmarks.rules --agent FOLDER``, once for each way of acting. The ways:

- ``gate``: as ``distill-ics`` fits it, for this way of acting.
- ``margin``, ``confidence``: see ``ztw-rl eval --rule``.
- ``gate, half its samples on-policy``: as many samples, half of them met while the gate decided.
- ``gate for KL(q, p)``: another target, which does not reward an exit for being sharp.
- ``true regret``: knows what each exit's answer costs in one step. It leaves where that is least.
- ``same action``: knows the full policy's answer, and leaves where the likeliest action is the
  same. Its cost is its own, and its random exits leave as often as it does.
- ``full policy as sharp``, ``random exits as sharp``: their probabilities are sharpened until
  their mean entropy is that of the gated policy, in the states that the gated policy meets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks import harness
from benchmarks.controls import (
    Recorder,
    Target,
    entropy_of,
    joined,
    knowing,
    reverse_kl,
    sharpened,
    temperature_for,
)
from ztw_rl.console import StopRequest
from ztw_rl.core.backends.named import make_backend
from ztw_rl.core.choice import Gate as GateRule
from ztw_rl.core.cost import exit_costs
from ztw_rl.core.gate_training import fit_gates
from ztw_rl.core.gates import GateSamples, disagreement
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import Backend
from ztw_rl.core.statistics import interval, mean_ratio
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import Agent, build_model, load_agent
from ztw_rl.rl.batch import EnvBatch
from ztw_rl.rl.calibrate import calibrate, check_costs
from ztw_rl.rl.config import ActionMode, DistillConfig, gate_for
from ztw_rl.rl.environments import begins_with, make_batch, make_batches
from ztw_rl.rl.evaluate import RowResult, play
from ztw_rl.rl.gates import TARGETS, GatePhase
from ztw_rl.rl.rows import Full, RandomExits, Row

NOOP_MAX = 30
MOST_ON_POLICY_GAMES = 200


@dataclass(frozen=True)
class Settings:
    """What is played."""

    agent: Path
    """The folder of an agent with exits."""
    action_mode: ActionMode = "sample"
    """How actions follow from probabilities."""
    cost: float = 0.6
    """Mean cost of a decision, the full policy's being 1."""
    n_episodes: int = 100
    """Games of each way."""
    n_samples: int = 200_000
    """Decisions that a gate learns from."""
    seed: int = 0
    """Game k has seed + k; calibration and samples have others."""
    backend: str = "onnx"
    """What runs the network."""


@dataclass(frozen=True)
class Bench:
    """An agent with what it plays on."""

    settings: Settings
    agent: Agent
    batches: Sequence[EnvBatch]
    plain: Backend
    """The agent's network, its exits judged by their confidence."""

    def backend(self, model: EarlyExitModel) -> Backend:
        """What runs a model."""
        return make_backend(self.settings.backend, model, self.agent.example())

    def play(self, row: Row, judge: Backend, n: int, seed: int) -> RowResult:
        """Games of one row.

        Args:
            row: What decides; gates stand for any signal.
            judge: Runs the model with that signal.
            n: Games.
            seed: Of the first.
        """
        (result,) = play(
            self.plain,
            self.batches,
            [row],
            n_episodes=n,
            seed=seed,
            action_mode=self.settings.action_mode,
            device=torch.device("cpu"),
            judges={"gate": judge},
        )
        return result

    def calibrated(self, judge: Backend, prices: Sequence[float]) -> GateRule:
        """The setting that costs what is wanted."""
        (found,) = calibrate(
            self.plain,
            self.batches,
            {"gate": [self.settings.cost]},
            {"gate": prices},
            seed=self.settings.seed,
            action_mode=self.settings.action_mode,
            device=torch.device("cpu"),
            judges={"gate": judge},
        )["gate"]
        return GateRule(found.threshold)

    def collect(self) -> GateSamples:
        """Samples of states in which every exit acted equally often."""
        name = gate_for(self.settings.action_mode)
        config = DistillConfig(gates=name, gate_timesteps=self.settings.n_samples)
        environment = begins_with(self.agent.config.environment, NOOP_MAX)
        emulators = make_batch(environment, config.n_envs)
        seed = self.settings.seed + 2_000_000
        phase = GatePhase(self.agent.model, emulators, config, seed, torch.device("cpu"))
        samples = phase.collect(lambda n: None, StopRequest())
        emulators.close()
        assert samples is not None
        return samples

    def fitted(self, samples: GateSamples, target: Target) -> EarlyExitModel:
        """The model, judged by new gates."""
        name = gate_for(self.settings.action_mode)
        print(f"{len(samples):,} samples, ", end="")
        torch.manual_seed(0)
        gates = build_model(replace(self.agent.config, gates=(name,))).gates_of(name)
        regret = target(samples.full, samples.answers)
        explained = fit_gates(gates, samples, regret, torch.Generator().manual_seed(0))
        print("explains", ", ".join(f"{share:.0%}" for share in explained), flush=True)
        own = self.agent.model
        blocks, ics = list(own.blocks), list(own.ics)
        return EarlyExitModel(
            blocks, own.head, ics, own.attach, own.ensemble, {"way": gates}, "way"
        ).eval()


def main(settings: Settings) -> None:
    """Play and print."""
    machine = harness.machine()
    agent = load_agent(settings.agent)
    agent.model.requires_grad_(False)
    mode, n, seed = settings.action_mode, settings.n_episodes, settings.seed
    batches = make_batches(begins_with(agent.config.environment, NOOP_MAX), 32)
    backend = make_backend(settings.backend, agent.model, agent.example())
    bench = Bench(settings, agent, batches, backend)
    target = TARGETS[gate_for(mode)]
    free = agent.relative_macs()
    check_costs([settings.cost], free, "confidence")
    uniform = bench.collect()
    half = uniform.rows(slice(settings.n_samples // 2))
    gated = bench.fitted(uniform, target)
    gate = bench.backend(gated)
    paid = exit_costs(gated, agent.example()).relative_macs
    own = bench.calibrated(gate, paid)
    recorder = Recorder(gate, agent.model, settings.n_samples // 2)
    for k in range(0, MOST_ON_POLICY_GAMES, 10):
        if recorder.left > 0:
            bench.play(Row(own), recorder.backend, 10, seed + 3_000_000 + k)
    met = recorder.samples()
    if recorder.left > 0:
        raise UserError(f"{MOST_ON_POLICY_GAMES} games give {len(met):,} samples; ask for fewer")
    ways: dict[str, tuple[Backend, Sequence[float]]] = {
        "gate": (gate, paid),
        "margin": (bench.backend(agent.judged("margin", mode).model), free),
        "confidence": (backend, free),
        "gate, half its samples on-policy": (
            bench.backend(bench.fitted(joined(half, met), target)),
            paid,
        ),
        "true regret": (knowing(backend, target), free),
    }
    if mode == "sample":
        model = bench.fitted(uniform, reverse_kl)
        ways["gate for KL(q, p)"] = (bench.backend(model), paid)
    results: dict[str, RowResult] = {}
    costs: dict[str, float] = {}

    def played(name: str, row: Row, judge: Backend, prices: Sequence[float]) -> None:
        results[name] = bench.play(row, judge, n, seed)
        alone = isinstance(row.who, Full)
        costs[name] = 1.0 if alone else float(np.dot(results[name].exit_shares, prices))
        print(f"{name}: {np.mean(results[name].returns):.1f} at {costs[name]:.3f}", flush=True)

    for name, (judge, prices) in ways.items():
        rule = own if name == "gate" else bench.calibrated(judge, prices)
        played(name, Row(rule), judge, prices)
    by_gate = results["gate"].exit_shares
    played("full policy", Row(Full()), gate, free)
    played("random exits", Row(RandomExits(by_gate, own)), gate, free)
    same = GateRule(0.5)
    played("same action", Row(same), knowing(backend, disagreement), free)
    as_often = RandomExits(results["same action"].exit_shares, same)
    played("random exits beside same action", Row(as_often), gate, free)
    if mode == "sample":
        for name, row, temperature in _as_sharp(own, gated, met, by_gate):
            sharp = sharpened(backend, temperature)
            bench = Bench(settings, agent, batches, sharp)
            played(f"{name} as sharp (T = {temperature:.2f})", row, sharp, free)
    for emulators in batches:
        emulators.close()
    _report(settings, agent, machine, results, costs)


def _as_sharp(
    own: GateRule, model: EarlyExitModel, met: GateSamples, shares: Sequence[float]
) -> list[tuple[str, Row, float]]:
    """The controls, each at the temperature at which it is as sharp as the gated policy."""
    gates = model.gates_of(model.judged_by)
    with torch.inference_mode():
        predicted = torch.stack([g(*met.known(m)) for m, g in enumerate(gates)], dim=1)
    (threshold,) = own.each(1)
    leaves = torch.cat([predicted < threshold, torch.ones(len(met), 1, dtype=torch.bool)], dim=1)
    said = torch.cat([met.answers, met.full.unsqueeze(1)], dim=1)
    acted = said[torch.arange(len(met)), leaves.int().argmax(dim=1)]
    entropy = entropy_of(acted)
    draws = torch.multinomial(
        torch.tensor(shares), len(met), True, generator=torch.Generator().manual_seed(0)
    )
    at_random = said[torch.arange(len(met)), draws]
    print(
        f"entropy in nats: gated {entropy:.3f}, full policy {entropy_of(met.full):.3f}, "
        f"random exits {entropy_of(at_random):.3f}",
        flush=True,
    )
    return [
        ("full policy", Row(Full()), temperature_for(met.full, entropy)),
        (
            "random exits",
            Row(RandomExits(tuple(shares), own)),
            temperature_for(at_random, entropy),
        ),
    ]


def _report(
    settings: Settings,
    agent: Agent,
    machine: str,
    results: dict[str, RowResult],
    costs: dict[str, float],
) -> None:
    """A table, and a last line of JSON."""
    game = agent.config.environment.name
    n = settings.n_episodes
    print(f"{machine}\n{game}, {settings.action_mode} actions, {n} games, seed {settings.seed}\n")
    print("| way | cost | return | of the headroom |\n|---|---|---|---|")
    full = np.array(results["full policy"].returns)
    rows = {}
    for name, result in results.items():
        others = "random exits beside same action" if "same action" in name else "random exits"
        base = np.array(results[others].returns)
        won = interval(mean_ratio([("", np.array(result.returns) - base, full - base)]))
        shown = "" if name == others else f"{won.center:.2f} ({won.low:.2f} to {won.high:.2f})"
        mean = float(np.mean(result.returns))
        print(f"| {name} | {costs[name]:.3f} | {mean:,.1f} | {shown} |")
        rows[name] = {"cost": costs[name], "return": mean, "recovered": won.center}
    print(json.dumps({"game": game, "mode": settings.action_mode, "rows": rows}))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
