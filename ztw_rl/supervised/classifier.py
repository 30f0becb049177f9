"""A trained early-exit classifier as a folder: ``weights.safetensors`` and ``classifier.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ztw_rl.core.checkpoint import load_weights, save_tensors
from ztw_rl.core.choice import Point
from ztw_rl.core.cost import exit_costs
from ztw_rl.core.files import load_json, save_json
from ztw_rl.core.model import METHODS, EarlyExitModel
from ztw_rl.decision import Rule
from ztw_rl.errors import UserError
from ztw_rl.settings import parse_stored
from ztw_rl.supervised.backbones.registry import build_backbone, early_exit
from ztw_rl.supervised.config import ICRun
from ztw_rl.supervised.data.datasets import SPECS, class_names
from ztw_rl.supervised.data.source import CROPPED_SHARE

FORMAT = 1
FOLDER = "classifier"
"""Folder of a run of ``train-ics`` that holds its result."""
CONFIG_FILE = "classifier.json"
WEIGHTS_FILE = "weights.safetensors"
GATES = "regret"
"""The name of a classifier's gates."""


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier's weights belong to, and how they came about."""

    n_classes: int
    run: ICRun
    """Network, method, pixels and training."""
    classes: tuple[str, ...] | None = None
    """Their names, where the data tell them."""


@dataclass(frozen=True)
class Classifier:
    """An early-exit image classifier."""

    config: ClassifierConfig
    model: EarlyExitModel

    def example(self) -> Tensor:
        """(1, 3, H, W) uint8, a black image."""
        size = self.config.run.pixels.image_size
        return torch.zeros(1, 3, size, size, dtype=torch.uint8)

    def metadata(self) -> dict[str, Any]:
        """What an exported file says of it."""
        run = self.config.run
        names = self.config.classes or class_names(run.data)
        return {
            "method": run.method,
            "answer": "label",
            "labels": list(names or map(str, range(self.config.n_classes))),
            "exits": [*(f"ic_{m}" for m in range(len(self.model.ics))), "backbone"],
            "relative_macs": self.relative_macs(),
            # Images that are cropped in another way are another distribution.
            "images": {
                "channels": "RGB",
                "size": run.pixels.image_size,
                "centre_crop": CROPPED_SHARE if SPECS[run.data.data].streams else None,
            },
        }

    def at(self, point: Point) -> Classifier:
        """See ``Deployable``."""
        return self.judged(point.rule)

    def judged(self, rule: Rule) -> Classifier:
        """The classifier with exits judged by a rule; layers are shared.

        Raises:
            UserError: It has no gates.
        """
        return replace(self, model=self.model.judged(GATES if rule == "gate" else rule))

    def relative_macs(self) -> tuple[float, ...]:
        """(E,) multiply-accumulates up to each exit, over the backbone's."""
        return exit_costs(self.model, self.example()).relative_macs


def build_model(config: ClassifierConfig) -> EarlyExitModel:
    """The network that ``config`` describes, its parameters random."""
    run = config.run
    return early_exit(
        build_backbone(run.arch, config.n_classes, run.pixels.image_size),
        run.arch,
        METHODS[run.method],
        n_classes=config.n_classes,
        pixels=run.pixels,
        n_ics=run.training.n_ics,
        gates=(GATES,) if run.training.gates else (),
    )


def save_classifier(folder: Path, classifier: Classifier) -> None:
    """Write a classifier; the configuration comes last, so a folder that has one is complete."""
    save_tensors(folder / WEIGHTS_FILE, classifier.model.state_dict())
    save_json(folder / CONFIG_FILE, {"format": FORMAT, **asdict(classifier.config)})


def load_classifier(path: Path) -> Classifier:
    """Read a classifier; its model is in eval mode, float32, on the CPU.

    Args:
        path: Its folder, or the run of ``train-ics`` that made it.

    Raises:
        UserError: There is none, or a file is damaged or of another network.
    """
    folder, config = _folder(path), load_config(path)
    model = build_model(config)
    load_weights(model, folder / WEIGHTS_FILE, f"does not fit {folder / CONFIG_FILE}")
    return Classifier(config, model.eval())


def load_config(path: Path) -> ClassifierConfig:
    """What a classifier is, without its weights.

    Args:
        path: Its folder, or the run of ``train-ics`` that made it.

    Raises:
        UserError: There is none, or its file is damaged.
    """
    file = _folder(path) / CONFIG_FILE
    if not file.is_file():
        remedy = "is its training finished?" if path.is_dir() else "there is no such folder"
        raise UserError(f"{path} holds no {CONFIG_FILE}; {remedy}")
    stored = load_json(file)
    if not isinstance(stored, dict) or stored.pop("format", None) != FORMAT:
        raise UserError(f"{file} is no classifier of format {FORMAT}")
    return parse_stored(ClassifierConfig, stored, file)


def _folder(path: Path) -> Path:
    return path / FOLDER if (path / FOLDER).is_dir() else path
