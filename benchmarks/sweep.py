"""A sweep of 1,000 thresholds: one pass against one evaluation at batch 1 per threshold.

Ours runs all exits once over the images and answers every threshold from that. The published way
evaluates the network image by image, anew for each threshold; it is measured on a few images at
three thresholds and extrapolated. Weights and pixels are random: ICs that know nothing are rarely
confident, so the thresholds are quantiles of their confidence, and exits are used evenly. A step is
one image at one threshold. Run it with ``python -m benchmarks.sweep``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from benchmarks import harness
from ztw_rl.core.exits import Exceeds
from ztw_rl.core.model import METHODS, EarlyExitModel
from ztw_rl.core.runtime import decide
from ztw_rl.core.sweep import N_THRESHOLDS, confidences
from ztw_rl.supervised.backbones.registry import build_backbone, early_exit
from ztw_rl.supervised.config import PixelConfig
from ztw_rl.supervised.data.datasets import SPECS
from ztw_rl.supervised.data.source import MemorySource
from ztw_rl.supervised.evaluate import collect, score


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    n_images: int = 256
    """Images of our pass."""
    n_sample: int = 8
    """Images of the published way, at each of three thresholds."""
    rounds: int = 5
    """Rounds that count; one more warms up."""


def one_pass(model: EarlyExitModel, source: MemorySource) -> Callable[[], int]:
    """All thresholds from one pass."""
    costs = torch.linspace(0.1, 1.5, model.n_exits).tolist()

    def run() -> int:
        curve = score(collect(model, source), costs, "confidence", "last").curve()
        return len(source) * len(curve.thresholds)

    return run


def one_by_one(model: EarlyExitModel, images: Tensor, thresholds: list[float]) -> Callable[[], int]:
    """The network at batch 1, once per threshold."""
    rules = [Exceeds.uniform(threshold, model.n_exits) for threshold in thresholds]
    exits = model.answering()

    def run() -> int:
        for rule in rules:
            for image in torch.split(images, 1):
                decide(exits, image, rule)
        return len(images) * len(rules)

    return run


def main(settings: Settings) -> float:
    """Measure, print, and return the ratio."""
    machine = harness.machine()
    torch.manual_seed(0)
    backbone = build_backbone("resnet56", 10, 32)
    model = early_exit(
        backbone, "resnet56", METHODS["ztw"], n_classes=10, pixels=PixelConfig()
    ).eval()
    images = torch.randint(256, (settings.n_images, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(10, (settings.n_images,))
    source = MemorySource(images, labels, 10, SPECS["cifar10"], torch.device("cpu"))
    scores = confidences(collect(model, source).log_probs).amax(dim=1)
    thresholds = scores.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    rates = harness.interleave(
        {
            "one pass": one_pass(model, source),
            "batch 1 per threshold": one_by_one(model, images[: settings.n_sample], thresholds),
        },
        settings.rounds,
    )
    return harness.report(
        "sweep",
        rates,
        ours="one pass",
        opponent="batch 1 per threshold",
        target=500.0,
        machine_line=machine,
        unit="images x thresholds",
        n_thresholds=N_THRESHOLDS,
        n_images=settings.n_images,
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
