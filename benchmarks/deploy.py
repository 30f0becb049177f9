"""Time of a decision with early exit over the full network's, on the same backend.

Part one is NatureCNN: an agent, on frames of its own games. Part two is ResNet-56 with an internal
classifier (IC) after each of its 27 blocks, on CIFAR-10's test images or random pixels; its
weights are random unless a trained classifier is given, so only then does its mix mean anything.
Part three is the toolkit earlyon (PyPI) on its own ResNet-56 for CIFAR, with three exits, beside
ours with exits at the same places. Run it with ``python -m benchmarks.deploy``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import harness
from benchmarks.onnx_profile import profile_exits
from ztw_rl import agents
from ztw_rl.core.backends.litert.backend import backbone_file
from ztw_rl.core.backends.litert.graph import Graph
from ztw_rl.core.backends.litert.lowering import answer, lowered
from ztw_rl.core.backends.litert.packing import Part, packed
from ztw_rl.core.backends.litert.values import input_like
from ztw_rl.core.backends.named import make_backend
from ztw_rl.core.backends.onnx import export_graphs
from ztw_rl.core.bench import Latency, bench, forced_bounds, interleaved_seconds, threads
from ztw_rl.core.cost import exit_costs, relative_cost
from ztw_rl.core.model import METHODS, EarlyExitModel
from ztw_rl.core.runtime import Runtime
from ztw_rl.interpreters import Interpreters
from ztw_rl.rl.agent import load_agent
from ztw_rl.rl.frames import play_frames
from ztw_rl.supervised.backbones.registry import build_backbone, early_exit
from ztw_rl.supervised.backbones.weights import import_torchvision
from ztw_rl.supervised.classifier import load_classifier
from ztw_rl.supervised.config import DataConfig, PixelConfig

BACKENDS = ("litert", "onnx", "eager")
SHOWN = ("full", "exit_0", "exit_1", "exit_6", "exit_13", "exit_20", "exit_26", "no_exit", "mix")
TARGETS = {"exit_0": 0.28, "no_exit": 1.10, "full_over_onnx": 1.0, "mix_over_macs": 1.20}
"""On LiteRT, the first two over the full network's time; the last is the mix's time on the faster
backend over its MACs' share of the faster full network's."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    agent: str = "pong"
    """A shipped agent's name, or an agent's folder."""
    threshold: float = 0.38
    """Of the agent's mix; the shipped agent keeps 95 % of its return with it."""
    data_path: Path | None = None
    """Folder of CIFAR-10 in parquet or in class folders; random pixels without."""
    classifier: Path | None = None
    """A trained ResNet-56 with 27 ICs, of ``ztw-rl supervised train-ics``; random weights
    without."""
    classifier_threshold: float = 0.9
    """Of its mix."""
    rounds: int = 500
    """Counted calls of each case of one observation; a tenth for larger batches."""
    image_rounds: int = 50
    """The same for ResNet-56."""
    seed: int = 0
    """Of games, weights and pixels."""


def measure(
    model: EarlyExitModel,
    inputs: Tensor,
    threshold: float,
    batch_sizes: Sequence[int],
    rounds: int,
    backends: Sequence[str] = BACKENDS,
) -> dict[tuple[str, int], dict[str, Latency]]:
    """Latencies on one thread, by backend and batch size, then by case."""
    relative_macs = exit_costs(model, inputs[:1]).relative_macs
    found = {}
    for name in backends:
        backend = make_backend(name, model, inputs[:1])
        runtime = Runtime(backend, inputs[:1], threshold)
        for size in batch_sizes:
            rows = bench(
                backend,
                inputs,
                runtime.bounds,
                relative_macs,
                batch_size=size,
                n_threads=1,
                n_rounds=rounds if size == 1 else max(5, rounds // 10),
            )
            found[name, size] = {row.case: row for row in rows}
    return found


class _AllExits(nn.Module):
    """Every exit's answer, one after another, without a way out in between."""

    def __init__(self, model: EarlyExitModel) -> None:
        super().__init__()
        self.segments = nn.ModuleList(model.answering())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """E times (B, C)."""
        logits: Tensor | None = None
        answers = []
        for segment in self.segments:
            x, logits, log_probs, *_ = segment(x, logits)
            answers.append(log_probs)
        return tuple(answers)


@torch.no_grad()
def unbranched_time(model: EarlyExitModel, x: Tensor, rounds: int) -> float:
    """LiteRT's time for all exits in one graph over the full network's.

    No way to the end is shorter.
    """
    graph = Graph()
    answers = lowered(graph, _AllExits(model).eval(), [x], [input_like(graph, "x", x)])
    outputs = {f"exit_{m}": answer(graph, value).node for m, value in enumerate(answers)}
    every = Interpreters(packed([Part(graph, outputs)]), 1, "the model")
    full = Interpreters(backbone_file(model, x), 1, "the model")
    feed, names = {"x": x.numpy()}, tuple(outputs)
    with threads(1):
        seconds = interleaved_seconds(
            [lambda: full.run(("logits",), feed), lambda: every.run(names, feed)], rounds, 30
        )
    whole, all_exits = (statistics.median(times) for times in seconds)
    return all_exits / whole


def images(settings: Settings, n: int) -> tuple[Tensor, str]:
    """(n, 3, 32, 32) uint8, and what they are."""
    if settings.data_path is None:
        generator = torch.Generator().manual_seed(settings.seed)
        pixels = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return pixels, "random pixels"
    from ztw_rl.supervised.data.datasets import open_source

    config = DataConfig(data="cifar10", data_path=str(settings.data_path), n_test=n)
    source = open_source(config, "test", torch.device("cpu"))
    return next(iter(source.plain(n))).images, "CIFAR-10 test images"


def resnet56(seed: int, n_ics: int | None = None) -> EarlyExitModel:
    """ResNet-56 with ICs, in cascade and ensemble, its parameters random."""
    torch.manual_seed(seed)
    model = early_exit(
        build_backbone("resnet56", 10, 32),
        "resnet56",
        METHODS["ztw"],
        n_classes=10,
        pixels=PixelConfig(),
        n_ics=n_ics,
    )
    return model.eval().requires_grad_(False)


def earlyon_cases(batch: Tensor) -> tuple[str, dict[str, Callable[[], object]]] | None:
    """Version of earlyon and its cases for a batch, or None if it is not installed."""
    if importlib.util.find_spec("earlyon") is None:
        return None
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()  # earlyon imports it without the cure that some builds need
    earlyon = importlib.import_module("earlyon")
    build = importlib.import_module("earlyon.models.cifar_resnet_ee").cifar_resnet_ee
    x = batch.float().div(255)
    made = [build(10, depth=56).eval(), build(10, depth=56).eval()]
    for model, thresholds in zip(made, ([0.0] * 3, [1.0] * 3), strict=True):
        model.config.confidence_thresholds = thresholds
    first, never = made
    # Random exits can be sure of anything; these are sure of nothing, at the same cost.
    for parameter in never.exit_heads.parameters():
        parameter.data.zero_()

    @torch.inference_mode()
    def full() -> object:
        return first.backbone(x)

    cases: dict[str, Callable[[], Any]]
    if len(batch) == 1:
        cases = {"exit_0": lambda: first(x), "no_exit": lambda: never(x)}
    else:
        cases = {
            "exit_0": lambda: first.forward_inference_batched(x),
            "no_exit": lambda: never.forward_inference_batched(x),
        }
    taken = {name: case().exit_taken for name, case in cases.items()}
    assert taken == {"exit_0": 0, "no_exit": -1}, taken
    return str(earlyon.__version__), {"full": full, **cases}


def beside_earlyon(
    inputs: Tensor, seed: int, rounds: int, batch_size: int
) -> tuple[str, dict[str, dict[str, float]]] | None:
    """Median seconds by toolkit and case, all interleaved; None if earlyon is not installed."""
    batch = inputs[:batch_size]
    theirs = earlyon_cases(batch)
    if theirs is None:
        return None
    version, cases = theirs
    calls = {("earlyon, eager", name): case for name, case in cases.items()}
    model = resnet56(seed, n_ics=3)
    for name in ("eager", "onnx"):
        backend = make_backend(name, model, batch[:1])
        toolkit = f"ztw-rl, {name}"
        calls[toolkit, "full"] = functools.partial(backend.backbone, batch)
        for case, m in (("exit_0", 0), ("no_exit", 3)):
            thresholds = forced_bounds(m, 4)
            calls[toolkit, case] = functools.partial(backend.predict, batch, thresholds)
    with threads(1):
        seconds = interleaved_seconds(list(calls.values()), rounds, n_warmup=3)
    found: dict[str, dict[str, float]] = {}
    for (toolkit, case), times in zip(calls, seconds, strict=True):
        found.setdefault(toolkit, {})[case] = statistics.median(times)
    return version, found


def show(title: str, rows: Mapping[str, Latency]) -> None:
    """Print a table of one backend and batch size."""
    print(title)
    table = Table()
    for heading in ("", "p50 µs", "time", "MACs"):
        table.add_column(heading, justify="right" if heading else "left")
    for case in SHOWN:
        if case in rows:
            row = rows[case]
            figures = (f"{row.relative_time:.3f}", f"{row.relative_macs:.3f}")
            table.add_row(case, f"{row.p50_us:,.0f}", *figures)
    Console(width=100).print(table)


def layers_share(
    model: EarlyExitModel, frames: Tensor, threshold: float, rows: Mapping[str, Latency]
) -> float:
    """Relative time of the mix, were samples sorted by exit beforehand, at no cost.

    Each exit then takes what it takes when a whole batch is forced to it.
    """
    with threads(1):
        exits = Runtime(make_backend("onnx", model, frames[:1]), frames[:1], threshold)
        taken = np.bincount(exits.predict(frames).exits, minlength=model.n_exits)
    cases = [*(f"exit_{m}" for m in range(model.n_exits - 1)), "no_exit"]
    return relative_cost(
        (taken / taken.sum()).tolist(), [rows[case].relative_time for case in cases]
    )


def show_profile(model: EarlyExitModel, x: Tensor) -> list[dict[str, float]]:
    """Print where ONNX Runtime spends one observation's time; returns the same."""
    rows = profile_exits(export_graphs(model, x).exits, x.numpy())
    print("NatureCNN, ONNX Runtime's profiler, batch 1, µs")
    table = Table()
    for heading in ("exit", "backbone", "IC", "small nodes", "how many"):
        table.add_column(heading, justify="right")
    for m, row in enumerate(rows):
        times = (row.backbone, row.classifier, row.small)
        table.add_row(str(m), *(f"{t:.0f}" for t in times), str(row.n_small))
    Console(width=100).print(table)
    return [asdict(row) for row in rows]


def main(settings: Settings) -> dict[str, Any]:
    """Measure, print, and return the ratios."""
    machine = harness.machine()
    print(f"deploy: {machine}")
    folder = agents.find(settings.agent, Path("runs"))
    agent = load_agent(folder)
    with threads(1):
        eager = Runtime(
            make_backend("eager", agent.model, agent.example()), agent.example(), settings.threshold
        )
        frames = play_frames(agent, eager, 1024, settings.seed)
    nature = measure(agent.model, frames, settings.threshold, (1, 256), settings.rounds)
    for (name, size), rows in nature.items():
        show(f"NatureCNN, {name}, batch {size}, threshold {settings.threshold:g}", rows)
    one, many = nature["litert", 1], nature["onnx", 256]
    batches = [nature[name, 256] for name in ("onnx", "litert")]
    mix, whole = (min(rows[case].p50_us for rows in batches) for case in ("mix", "full"))
    unbranched = unbranched_time(agent.model, frames[:1], settings.rounds)
    where = show_profile(agent.model, frames[:1])
    layers = layers_share(agent.model, frames, settings.threshold, many)
    ratios = {
        "exit_0": one["exit_0"].relative_time,
        "no_exit": one["no_exit"].relative_time,
        "exit_0_over_eager": one["exit_0"].p50_us / nature["eager", 1]["full"].p50_us,
        "full_over_onnx": one["full"].p50_us / nature["onnx", 1]["full"].p50_us,
        "mix_over_macs": mix / whole / many["mix"].relative_macs,
    }

    inputs, what = images(settings, 256)
    if settings.classifier is None:
        model, weights = resnet56(settings.seed), "random weights"
    else:
        model, weights = load_classifier(settings.classifier).model, "trained"
    threshold = settings.classifier_threshold
    resnet = measure(model, inputs, threshold, (1, 128), settings.image_rounds)
    for (name, size), rows in resnet.items():
        show(f"ResNet-56, 27 ICs, {weights}, {what}, {name}, batch {size}", rows)

    rival: dict[str, Any] = {}
    for size in (1, 128):
        rounds = settings.image_rounds if size == 1 else max(5, settings.image_rounds // 10)
        compared = beside_earlyon(inputs, settings.seed, rounds, size)
        if compared is None:
            print("earlyon is not installed; pip install earlyon to compare with it")
            break
        version, found = compared
        print(f"ResNet-56, exits after blocks 9, 18, 27; batch {size}")
        table = Table()
        for heading in ("", "full ms", "exit 0", "no exit"):
            table.add_column(heading, justify="right" if heading else "left")
        for toolkit, t in found.items():
            relative = {case: t[case] / t["full"] for case in ("exit_0", "no_exit")}
            table.add_row(
                toolkit, f"{t['full'] * 1e3:.2f}", *(f"{r:.3f}" for r in relative.values())
            )
            rival[f"{toolkit}, batch {size}"] = {k: round(v, 3) for k, v in relative.items()}
        Console(width=100).print(table)
        rival["version"] = version
    result = {
        "benchmark": "deploy",
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "targets": TARGETS,
        "all_exits_in_one_graph": round(unbranched, 3),
        "mix_over_macs_by_layers": round(layers / many["mix"].relative_macs, 3),
        "profile": where,
        "mix_macs": round(many["mix"].relative_macs, 3),
        "threshold": settings.threshold,
        "resnet56": {
            f"{name}, batch {size}": {
                case: round(rows[case].relative_time, 3) for case in ("exit_0", "no_exit")
            }
            for (name, size), rows in resnet.items()
        },
        "images": what,
        "earlyon": rival,
        "machine": machine,
    }
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
