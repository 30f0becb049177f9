"""Fitting of internal classifiers (ICs) to labels on a frozen backbone, then of ensembles.

Source: Wołczyk et al., "Zero Time Waste" (2021), appendix A.1.
"""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from ztw_rl.console import StopRequest, graceful_stop
from ztw_rl.core.checkpoint import load_state, newest_checkpoint
from ztw_rl.core.ensembles import Ensemble
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.training import (
    are_finite,
    cross_entropy,
    first_ic_cosine,
    freeze,
    minibatches,
)
from ztw_rl.errors import UserError
from ztw_rl.supervised.config import EnsembleTraining, ICTraining
from ztw_rl.supervised.data.source import Batch, Source, mix_seeds
from ztw_rl.supervised.engine import Engine, arithmetic
from ztw_rl.supervised.loop import RunLog, Schedule, State, add_task, restore, run

LOWEST_LOG_PROB = -60.0
"""Cached log-probabilities stop here, so that none is infinite."""


class ICLogits(nn.Module):
    """(B, E−1, C) logits of the ICs from images; the trunk is frozen, so it has no graph.

    A module of its own, so that several processes can average its gradients.
    """

    def __init__(self, model: EarlyExitModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits for (B, 3, H, W) uint8 images."""
        ics = islice(self.model.exits(images), len(self.model.ics))
        return torch.stack([ic.logits for ic in ics], dim=1)


class _ICLearner:
    """Cross-entropy summed over the ICs."""

    name = "ics"

    def __init__(
        self, logits: nn.Module, model: EarlyExitModel, config: ICTraining, engine: Engine
    ) -> None:
        self._logits = logits
        self._alone = ICLogits(model)
        self._config = config
        self._device = engine.device
        self._first = list(model.ics[0].parameters())

    def _log_probs(self, logits: nn.Module, images: Tensor) -> Tensor:
        with arithmetic(self._config.precision, self._device):
            found = logits(images)
        return torch.log_softmax(found.float(), dim=-1)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See ``Learner``."""
        log_probs = self._log_probs(self._logits, batch.images)
        right = (log_probs.argmax(dim=-1) == batch.labels.unsqueeze(1)).sum(dim=0)
        targets = batch.labels.unsqueeze(1).expand(-1, log_probs.shape[1])
        # A process may have no share of the last minibatch; a sum is then 0 where a mean is NaN.
        return F.nll_loss(log_probs.transpose(1, 2), targets, reduction="sum"), right

    def figures(self, batch: Batch) -> dict[str, float]:
        """See ``Learner``: how far the other ICs pull the first one away."""
        log_probs = self._log_probs(self._alone, batch.images)
        return {"gradient_cosine": first_ic_cosine(log_probs, batch.labels, self._first)}


def fit_ensemble(
    ensemble: Ensemble,
    log_probs: Tensor,
    labels: Tensor,
    config: EnsembleTraining,
    *,
    seed: int,
    stop: StopRequest,
    run_log: RunLog | None = None,
    step: int = 0,
) -> bool:
    """Minimise the ensembles' cross-entropy, summed over the exits, on cached answers.

    Args:
        ensemble: Over the E exits.
        log_probs: (N, E, C) of each exit alone, on any device: minibatches are moved to the
            ensemble's.
        labels: (N,) int64, beside them.
        config: Settings.
        seed: Of the order.
        stop: The user's wish; the ensembles are then left as they are at that point.
        run_log: Where to show progress, if anywhere.
        step: What the logs count on from.

    Returns:
        Whether it was completed.

    Raises:
        UserError: Loss or weights are no longer finite numbers.
    """
    device = ensemble.log_weights.device
    ensemble.requires_grad_(True)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.SGD
    optimizer = kind(ensemble.parameters(), lr=config.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    task = add_task(run_log, "ensemble", config.n_epochs)
    for epoch in range(config.n_epochs):
        if stop.requested:
            break
        losses = []
        for index in minibatches(len(labels), config.batch_size, generator):
            here = index.to(labels.device)
            members = log_probs[here].to(device).clamp_min(LOWEST_LOG_PROB)
            loss = cross_entropy(ensemble.fitted(members), labels[here].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        mean = torch.stack(losses).mean().item()
        if not (math.isfinite(mean) and are_finite(ensemble.parameters())):
            raise UserError(
                "the ensembles' loss or weights are no finite numbers; begin a new run with a "
                "lower --ensemble.learning-rate"
            )
        if run_log is not None and task is not None:
            run_log.writer.add_scalar("ensemble/loss", mean, step + epoch + 1)
            run_log.progress.update(task, completed=epoch + 1, loss=mean)
    freeze(ensemble)
    return not stop.requested


def train_ics(
    model: EarlyExitModel,
    source: Source,
    config: ICTraining,
    run_dir: Path,
    *,
    seed: int,
    engine: Engine,
    resume: bool = False,
    fit_only_ensemble: bool = False,
    console: Console | None = None,
) -> bool:
    """Fit the ICs, then, if the method has any, the ensembles. The backbone stays as it is.

    Ctrl-C saves a checkpoint and returns. The ensembles' stage takes little time beside the ICs',
    and begins anew after an interruption.

    Args:
        model: Backbone and ICs; it is left in eval mode.
        source: Training images.
        config: Settings.
        run_dir: Holds ``checkpoints/`` and ``logs/``.
        seed: Of order and augmentation.
        engine: Processes and device.
        resume: Go on from the newest checkpoint in ``run_dir``.
        fit_only_ensemble: The ICs come from another run and stay as they are.
        console: For progress; silent without one.

    Returns:
        Whether it was completed.

    Raises:
        UserError: ``resume`` without a usable checkpoint, or loss or weights are no longer
            finite numbers.
    """
    model.to(engine.device)
    freeze(model)
    hidden_from = 0 if fit_only_ensemble else None
    if resume:
        hidden_from = load_state(State, newest_checkpoint(run_dir)).n_batches + 1
    run_log = None
    if engine.shard.rank == 0:
        run_log = RunLog(run_dir, console or Console(quiet=True), hidden_from)
        run_log.progress.start()
    try:
        with graceful_stop() as stop:
            finished, step = True, 0
            if not fit_only_ensemble:
                model.ics.requires_grad_(True)
                optimizer = torch.optim.Adam(model.ics.parameters(), lr=config.learning_rates[0])
                done = restore(run_dir, model, optimizer) if resume else 0
                finished = run(
                    _ICLearner(engine.prepare(ICLogits(model)), model, config, engine),
                    model,
                    optimizer,
                    source,
                    Schedule(
                        config.n_epochs,
                        config.batch_size,
                        config.learning_rates,
                        config.milestones,
                    ),
                    engine=engine,
                    seed=seed,
                    stop=stop,
                    run_log=run_log,
                    done=done,
                )
                freeze(model)
                # Ensembles count on, so that a resumed session hides what it logs anew.
                step = load_state(State, newest_checkpoint(run_dir)).n_batches if run_log else 0
            if finished and model.ensemble is not None and run_log:
                log_probs, labels = _cache(model, source, config, mix_seeds(seed, config.n_epochs))
                finished = fit_ensemble(
                    model.ensemble,
                    log_probs,
                    labels,
                    config.ensemble,
                    seed=seed,
                    stop=stop,
                    run_log=run_log,
                    step=step,
                )
    finally:
        if run_log:
            run_log.progress.stop()
            run_log.writer.close()
    return finished


def _cache(
    model: EarlyExitModel, source: Source, config: ICTraining, seed: int
) -> tuple[Tensor, Tensor]:
    """What the exits say of one augmented pass: (N, E, C) log-probabilities and (N,) labels.

    ImageNet's are 31 GB, so there is one copy of them, in the main memory.
    """
    answers = torch.empty(len(source), model.n_exits, source.n_classes)
    labels = torch.empty(len(source), dtype=torch.int64)
    done = 0
    for batch in source.epoch(config.batch_size, seed):
        part = slice(done, done + len(batch.labels))
        with torch.inference_mode():
            found = model.alone(batch.images)
        answers[part] = found
        labels[part] = batch.labels
        done = part.stop
    return answers, labels
