"""Exits on a user's own classifier: what they are, what may be done with them, and their file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ztw_rl.core.checkpoint import fingerprint, load_tensors, save_tensors
from ztw_rl.core.choice import Point
from ztw_rl.core.cost import exit_costs
from ztw_rl.core.cut import Cut
from ztw_rl.core.files import load_json, save_json
from ztw_rl.core.ics import build_ics
from ztw_rl.core.model import METHODS, EarlyExitModel
from ztw_rl.core.training import freeze
from ztw_rl.errors import UserError
from ztw_rl.settings import parse_stored

FORMAT = 1
CONFIG_FILE = "exits.json"
WEIGHTS_FILE = "exits.safetensors"


@dataclass(frozen=True)
class ExitsConfig:
    """What stored exits belong to."""

    method: str
    places: tuple[str, ...]
    """Submodules that they lie behind."""
    n_classes: int
    network: str
    """Fingerprint of the network's own weights."""


@dataclass(frozen=True)
class StoredExits:
    """All that is stored of exits beside their weights: ``exits.json``."""

    belong_to: ExitsConfig
    thresholds: tuple[float, ...]
    """E−1, the operating point."""
    told: str
    """How that was chosen."""


class AttachedNetwork:
    """A user's network with exits; see ``core.deployable.Deployable``.

    Args:
        cut: The network.
        method: Name of the method, one of ``core.model.METHODS``.
        example: (1, …), an input of the right shape and type, where the network is.
        labels: C, what the classes are called.
        seed: Of the exits' initial weights.

    Raises:
        UserError: No exit can read what the network has at a place.
    """

    def __init__(
        self, cut: Cut, method: str, example: Tensor, labels: list[str], seed: int
    ) -> None:
        self.method = method
        self.places = cut.places
        self.labels = labels
        self.x = example
        chosen = METHODS[method]
        # Drawn on the CPU, so that they are the same on every device.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            ics = build_ics(cut.shapes, cut.n_classes, chosen)
        ensemble = chosen.ensemble(len(ics) + 1, cut.n_classes) if chosen.ensemble else None
        attach = range(1, len(ics) + 1)
        self.trained = EarlyExitModel(cut.blocks, cut.head, ics, attach, ensemble)
        self.trained.to(example.device)
        freeze(self.trained)

    @property
    def model(self) -> EarlyExitModel:
        """See ``Deployable``: a copy, if the network is on another device than the CPU."""
        if self.x.device.type == "cpu":
            return self.trained
        return copy.deepcopy(self.trained).cpu()

    def example(self) -> Tensor:
        """See ``Deployable``."""
        return self.x.cpu()

    def at(self, point: Point) -> AttachedNetwork:
        """See ``Deployable``: layers are shared."""
        judged = copy.copy(self)
        judged.trained = self.trained.judged(point.rule)
        return judged

    def relative_macs(self) -> tuple[float, ...]:
        """See ``Deployable``."""
        return exit_costs(self.trained, self.x).relative_macs

    def metadata(self) -> dict[str, Any]:
        """See ``Deployable``."""
        return {
            "method": self.method,
            "answer": "label",
            "labels": self.labels,
            "exits": [*(f"ic_{m}" for m in range(len(self.places))), "backbone"],
            "places": list(self.places),
            "relative_macs": self.relative_macs(),
        }


def save_exits(
    folder: Path, network: AttachedNetwork, thresholds: Sequence[float], told: str
) -> None:
    """Write the exits without the network; the configuration comes last.

    Args:
        folder: It is made if it is not there.
        network: Whose exits they are.
        thresholds: E−1, the operating point.
        told: How that was chosen, in words.
    """
    save_tensors(folder / WEIGHTS_FILE, _exits(network.trained).state_dict())
    stored = StoredExits(_config(network), tuple(thresholds), told)
    save_json(folder / CONFIG_FILE, {"format": FORMAT, **asdict(stored)})


def load_exits(folder: Path, network: AttachedNetwork) -> StoredExits:
    """Put stored exits on the network that they were made for.

    Args:
        folder: What ``save_exits`` wrote.
        network: The same network with exits at the same places.

    Raises:
        UserError: There are none, they are damaged, or they belong to another network.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{folder} holds no {CONFIG_FILE}; save() writes it")
    stored = load_json(file)
    if not isinstance(stored, dict) or stored.pop("format", None) != FORMAT:
        raise UserError(f"{file} holds no exits of format {FORMAT}")
    found, ours = parse_stored(StoredExits, stored, file), _config(network)
    for name, value in vars(found.belong_to).items():
        if value != getattr(ours, name):
            raise UserError(
                f"{folder} holds exits of another network: its {name} is {value}, not "
                f"{getattr(ours, name)}"
            )
    weights = folder / WEIGHTS_FILE
    try:
        _exits(network.trained).load_state_dict(load_tensors(weights))
    except RuntimeError:
        raise UserError(f"{weights} does not fit {file}") from None
    return found


def _exits(model: EarlyExitModel) -> nn.ModuleDict:
    """What is learnt."""
    parts: dict[str, nn.Module] = {"ics": model.ics}
    return nn.ModuleDict(parts if model.ensemble is None else {**parts, "ensemble": model.ensemble})


def _config(network: AttachedNetwork) -> ExitsConfig:
    model = network.trained
    own = nn.ModuleList([model.blocks, model.head])
    return ExitsConfig(
        network.method, network.places, len(network.labels), fingerprint(own.state_dict())
    )
