"""What judging an exit takes of the full network's time: confidence, margin, gate.

One observation of noise, one thread; all cases take turns. Weights of gates are random, which
changes no time. Run it with ``python -m benchmarks.gates``.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import Tensor

from benchmarks import harness
from ztw_rl import agents, deploy, deployed
from ztw_rl.core.backends.named import make_backend
from ztw_rl.core.backends.onnx_file import one_graph
from ztw_rl.core.backends.sessions import interface
from ztw_rl.core.bench import forced_bounds, interleaved_seconds, threads
from ztw_rl.decision import Rule
from ztw_rl.rl.agent import Agent, build_model, load_agent

Decide = Callable[[Sequence[float]], object]
RULES: tuple[Rule, ...] = ("confidence", "margin", "gate")


@dataclass(frozen=True)
class Settings:
    """What is timed."""

    agent: str = "pong/paper"
    """Its name or folder; gates that it lacks are made."""
    backends: tuple[str, ...] = ("litert", "onnx-file", "onnx", "eager")
    """What runs the network; onnx-file is one file, as export writes it."""
    n_rounds: int = 2000
    """Counted decisions of each kind."""


def with_gates(agent: Agent) -> Agent:
    """The agent with gates for greedy actions."""
    if "greedy" in agent.config.gates:
        return agent
    config = replace(agent.config, gates=("greedy",))
    model = build_model(config).eval()
    model.load_state_dict(agent.model.state_dict(), strict=False)
    return replace(agent, config=config, model=model)


def one_file(agent: Agent, x: Tensor) -> Decide:
    """What decides an observation through one ONNX file."""
    metadata = {**interface(agent.model, x), "answer": "action"}
    graph = one_graph(agent.model, x, "action", metadata)
    model = deployed.OneFileModel(deploy.open_session(graph, 1, "the model"), metadata)
    return lambda bounds: model.decide(x.numpy(), bounds)


def decides(name: str, agent: Agent, x: Tensor) -> Decide:
    """What decides an observation, from bounds."""
    if name == "onnx-file":
        return one_file(agent, x)
    return partial(make_backend(name, agent.model, x).predict, x)


def main(settings: Settings) -> None:
    """Measure and print."""
    print(f"{harness.machine()}\n")
    agent = with_gates(load_agent(agents.find(settings.agent, Path("runs"))))
    example = agent.example()
    x = torch.randint(256, example.shape, dtype=torch.uint8).to(example.dtype)
    shares: dict[str, dict[str, list[float]]] = {}
    for name in settings.backends:
        shares[name] = {}
        full = make_backend(name.removesuffix("-file"), agent.model, x)
        n_exits = agent.model.n_exits
        cases: list[Callable[[], object]] = [
            partial(decide, forced_bounds(m, n_exits))
            for decide in [decides(name, agent.judged(rule, "greedy"), x) for rule in RULES]
            for m in range(n_exits)
        ]
        with threads(1):
            seconds = interleaved_seconds(
                [partial(full.backbone, x), *cases], settings.n_rounds, 100
            )
        whole, *each = (statistics.median(times) for times in seconds)
        heads = [*(f"exit {m}" for m in range(n_exits - 1)), "no exit"]
        print(f"{name}, the full network's time ({whole * 1e6:,.0f} us) being 1\n")
        print("| judged by | " + " | ".join(heads) + " |\n|---" + "|---" * n_exits + "|")
        for i, rule in enumerate(RULES):
            own = [t / whole for t in each[i * n_exits : (i + 1) * n_exits]]
            shares[name][rule] = own
            print(f"| {rule} | " + " | ".join(f"{share:.3f}" for share in own) + " |")
        print()
    print(json.dumps(shares))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
