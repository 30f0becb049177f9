"""Fitting of internal classifiers (ICs) on a frozen backbone, then of ensembles and gates.

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
from ztw_rl.supervised import gates
from ztw_rl.supervised.cache import fill
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
    keep_ics: bool = False,
    console: Console | None = None,
) -> bool:
    """Fit the ICs, then ensembles and gates, if it has any. The backbone stays as it is.

    Ctrl-C saves a checkpoint and returns. The later stages take little time beside the ICs', and
    begin anew after an interruption.

    Args:
        model: Backbone and ICs; it is left in eval mode.
        source: Training images; where it knows no labels, the ICs learn what the backbone says.
        config: Settings.
        run_dir: Holds ``checkpoints/`` and ``logs/``; without one, neither is kept.
        seed: Of order and augmentation.
        engine: Processes and device.
        resume: Go on from the newest checkpoint in ``run_dir``.
        keep_ics: The ICs come from another run and stay as they are.
        console: For progress; silent without one.

    Returns:
        Whether it was completed.

    Raises:
        UserError: ``resume`` without a usable checkpoint, or loss or weights are no longer
            finite numbers.
    """
    model.to(engine.device)
    freeze(model)
    hidden_from = 0 if keep_ics else None
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
            if not keep_ics:
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
            if finished and run_log and (model.ensemble is not None or model.gates):
                pass_seed = mix_seeds(seed, config.n_epochs)
                cache = fill(model, source, config.batch_size, pass_seed, stop)
                finished = cache is not None
                if cache is not None and model.ensemble is not None:
                    finished = fit_ensemble(
                        model.ensemble,
                        cache.log_probs,
                        cache.targets,
                        config.ensemble,
                        loss=cross_entropy if source.labelled else kl_to_teacher,
                        seed=seed,
                        stop=stop,
                        run_log=run_log,
                        step=step,
                    )
                if finished and cache is not None and model.gates:
                    gates.fit(model, cache, seed, run_log, step)
    finally:
        if run_log:
            run_log.close()
    return finished
