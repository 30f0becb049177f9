"""Training of a backbone, or of its final layer alone (transfer learning)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from ztw_rl.console import graceful_stop
from ztw_rl.core.checkpoint import save_tensors
from ztw_rl.core.training import freeze
from ztw_rl.errors import UserError
from ztw_rl.supervised.backbones.base import NormalizePixels
from ztw_rl.supervised.backbones.weights import final_layer
from ztw_rl.supervised.config import BackboneTraining, PixelConfig
from ztw_rl.supervised.data.source import Batch, Source
from ztw_rl.supervised.engine import Engine, arithmetic
from ztw_rl.supervised.loop import RunLog, Schedule, restore, run

WEIGHTS = "backbone.safetensors"
"""The result, under the network's usual parameter names."""


@dataclass(frozen=True)
class BackboneResult:
    """Where training stands when ``train_backbone`` returns."""

    finished: bool
    """False if the user stopped it."""
    accuracy: float | None
    """On the held-out images, if there are any; 0 … 1."""


class _BackboneLearner:
    """Cross-entropy of the network's own logits."""

    name = "backbone"

    def __init__(
        self, network: nn.Module, pixels: NormalizePixels, config: BackboneTraining, engine: Engine
    ) -> None:
        self._network = network
        self._pixels = pixels
        self._config = config
        self._device = engine.device

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See ``Learner``."""
        with arithmetic(self._config.precision, self._device):
            found = self._network(self._pixels(batch.images))
        if not isinstance(found, Tensor):
            raise UserError(
                f"the network gives {type(found).__name__} while it trains and not only logits; "
                "choose another --arch"
            )
        logits = found.float()
        right = (logits.argmax(dim=1) == batch.truth).sum().view(1)
        return F.cross_entropy(logits, batch.truth, reduction="sum"), right

    def figures(self, batch: Batch) -> dict[str, float]:
        """See ``Learner``."""
        return {}


@torch.inference_mode()
def accuracy(network: nn.Module, pixels: NormalizePixels, source: Source) -> float:
    """Share of a source's images that a network, in eval mode, gets right."""
    right = torch.zeros((), dtype=torch.int64)
    for batch in source.plain(256):
        right += (network(pixels(batch.images)).argmax(dim=1) == batch.truth).sum().cpu()
    return right.item() / len(source)


def train_backbone(
    backbone: nn.Module,
    pixels: PixelConfig,
    source: Source,
    held_out: Source | None,
    config: BackboneTraining,
    run_dir: Path,
    *,
    seed: int,
    engine: Engine,
    resume: bool = False,
    console: Console | None = None,
) -> BackboneResult:
    """Train with stochastic gradient descent and momentum; leave ``backbone.safetensors``.

    Ctrl-C saves a checkpoint and returns. With ``config.trains == "head"`` all but the final layer
    stays as it is, normalisation statistics included.

    Args:
        backbone: The network, with the parameters to begin from.
        pixels: Normalisation of the images.
        source: Training images.
        held_out: Images to measure accuracy on, if any.
        config: Settings.
        run_dir: Holds ``checkpoints/``, ``logs/`` and the result.
        seed: Of order, augmentation and dropout.
        engine: Processes and device.
        resume: Go on from the newest checkpoint in ``run_dir``.
        console: For progress; silent without one.

    Raises:
        UserError: ``resume`` without a usable checkpoint, or loss or weights are no longer
            finite numbers.
    """
    network: nn.Module = backbone.to(engine.device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalize = NormalizePixels(pixels.mean, pixels.std).to(engine.device)

    def to_training() -> None:
        if config.trains == "all":
            backbone.train()
        else:
            freeze(backbone)
            final_layer(backbone).requires_grad_(True)

    to_training()
    learns = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        learns,
        lr=config.learning_rates[0],
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    done = restore(run_dir, backbone, optimizer) if resume else 0
    run_log = None
    if engine.shard.rank == 0:
        run_log = RunLog(run_dir, console or Console(quiet=True), done + 1 if resume else None)

    def measure() -> dict[str, float]:
        if held_out is None:
            return {}
        backbone.eval()
        figure = accuracy(backbone, normalize, held_out)
        to_training()
        return {"held_out_accuracy": figure}

    learner = _BackboneLearner(engine.prepare(network), normalize, config, engine)
    schedule = Schedule(
        config.n_epochs, config.batch_size, config.learning_rates, config.milestones
    )
    with graceful_stop() as stop:
        if run_log:
            run_log.progress.start()
        try:
            finished = run(
                learner,
                backbone,
                optimizer,
                source,
                schedule,
                engine=engine,
                seed=seed,
                stop=stop,
                run_log=run_log,
                done=done,
                on_epoch=measure,
            )
        finally:
            if run_log:
                run_log.close()
    reached = measure().get("held_out_accuracy")
    freeze(backbone)
    if run_log and finished:
        save_tensors(run_dir / WEIGHTS, backbone.state_dict())
    return BackboneResult(finished, reached)
