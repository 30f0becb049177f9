"""Fitting of internal classifiers (ICs) on a frozen backbone, then of ensembles.

They learn the labels, or without any what the backbone itself says.

Source: Wołczyk et al., "Zero Time Waste" (2021), appendix A.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from ztw_rl.console import StopRequest, graceful_stop
from ztw_rl.core.checkpoint import load_state, newest_checkpoint
from ztw_rl.core.ensembles import Ensemble
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.training import (
    are_finite,
    cross_entropy,
    freeze,
    kl_to_teacher,
    minibatches,
)
from ztw_rl.errors import UserError
from ztw_rl.supervised.config import EnsembleTraining, ICTraining
from ztw_rl.supervised.data.source import Source, mix_seeds
from ztw_rl.supervised.engine import Engine
from ztw_rl.supervised.ic_learners import ImitationLearner, LabelLearner
from ztw_rl.supervised.loop import RunLog, Schedule, State, add_task, restore, run

LOWEST_LOG_PROB = -60.0
"""Cached log-probabilities stop here, so that none is infinite."""


Loss = Callable[[Tensor, Tensor], Tensor]
"""From (B, E, C) log-probabilities and B targets to their mean, summed over the exits."""


def fit_ensemble(
    ensemble: Ensemble,
    log_probs: Tensor,
    targets: Tensor,
    config: EnsembleTraining,
    *,
    loss: Loss = cross_entropy,
    seed: int,
    stop: StopRequest,
    run_log: RunLog | None = None,
    step: int = 0,
) -> bool:
    """Minimise the ensembles' loss, summed over the exits, on cached answers.

    Args:
        ensemble: Over the E exits.
        log_probs: (N, E, C) of each exit alone, on any device: minibatches are moved to the
            ensemble's.
        targets: (N, …), beside them: what the ensembles should say.
        config: Settings.
        loss: Of the ensembles' answers and the targets.
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
        for index in minibatches(len(targets), config.batch_size, generator):
            here = index.to(targets.device)
            members = log_probs[here].to(device).clamp_min(LOWEST_LOG_PROB)
            value = loss(ensemble.fitted(members), targets[here].to(device))
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(value.detach())
        mean = torch.stack(losses).mean().item()
        if not (math.isfinite(mean) and are_finite(ensemble.parameters())):
            raise UserError(
                "the ensembles' loss or weights are no finite numbers; begin a new run with a "
                "lower --ensemble.learning-rate"
            )
        if run_log is not None and task is not None:
            run_log.write("ensemble", {"loss": mean}, step + epoch + 1)
            run_log.progress.update(task, completed=epoch + 1, loss=mean)
    freeze(ensemble)
    return not stop.requested


def train_ics(
    model: EarlyExitModel,
    source: Source,
    config: ICTraining,
    run_dir: Path | None,
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
        source: Training images; where it knows no labels, the ICs learn what the backbone says.
        config: Settings.
        run_dir: Holds ``checkpoints/`` and ``logs/``; without one, neither is kept.
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
    resumed = run_dir if resume else None
    if resumed is not None:
        hidden_from = load_state(State, newest_checkpoint(resumed)).n_batches + 1
    run_log = None
    if engine.shard.rank == 0:
        run_log = RunLog(run_dir, console or Console(quiet=True), hidden_from)
        run_log.progress.start()
    try:
        with graceful_stop() as stop:
            finished, step = True, 0
            learner = LabelLearner if source.labelled else ImitationLearner
            if not fit_only_ensemble:
                model.ics.requires_grad_(True)
                optimizer = torch.optim.Adam(model.ics.parameters(), lr=config.learning_rates[0])
                done = 0 if resumed is None else restore(resumed, model, optimizer)
                finished = run(
                    learner(model, config, engine),
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
                step = source.n_batches(config.batch_size) * config.n_epochs
            if finished and model.ensemble is not None and run_log:
                log_probs, targets = _cache(model, source, config, mix_seeds(seed, config.n_epochs))
                finished = fit_ensemble(
                    model.ensemble,
                    log_probs,
                    targets,
                    config.ensemble,
                    loss=cross_entropy if source.labelled else kl_to_teacher,
                    seed=seed,
                    stop=stop,
                    run_log=run_log,
                    step=step,
                )
    finally:
        if run_log:
            run_log.close()
    return finished


def _cache(
    model: EarlyExitModel, source: Source, config: ICTraining, seed: int
) -> tuple[Tensor, Tensor]:
    """What the exits say of one augmented pass, and what they should say.

    ImageNet's answers are 31 GB, so there is one copy of them, in the main memory.

    Returns:
        (N, E, C) log-probabilities; and (N,) labels, or without any (N, C), those of the backbone.
    """
    answers = torch.empty(len(source), model.n_exits, source.n_classes)
    labels = torch.empty(len(source), dtype=torch.int64)
    done = 0
    for batch in source.epoch(config.batch_size, seed):
        part = slice(done, done + len(batch.images))
        with torch.inference_mode():
            found = model.alone(batch.images)
        answers[part] = found
        if batch.labels is not None:
            labels[part] = batch.labels
        done = part.stop
    return answers, labels if source.labelled else answers[:, -1]
