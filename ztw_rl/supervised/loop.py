"""The loop over minibatches that training a backbone and fitting ICs share.

A minibatch is a function of the run's seed and its own number, so a run that was stopped and
resumed, at any minibatch, ends as one that never was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from ztw_rl.console import StopRequest
from ztw_rl.core.checkpoint import (
    load_optimizer_tensors,
    load_state,
    load_training,
    newest_checkpoint,
    save_training,
)
from ztw_rl.core.training import are_finite, piecewise_rate, set_learning_rate
from ztw_rl.errors import UserError
from ztw_rl.supervised.data.source import Batch, Source, mix_seeds
from ztw_rl.supervised.engine import Engine


class Learner(Protocol):
    """What is learnt, and from what loss."""

    name: str

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of this process's share of a minibatch: the loss's sum, and (E,) hits per exit."""
        ...

    def figures(self, batch: Batch) -> dict[str, float]:
        """What else is logged, once at the start of each epoch."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How long, and at what rates."""

    n_epochs: int
    batch_size: int
    learning_rates: tuple[float, ...]
    milestones: tuple[float, ...]


@dataclass(frozen=True)
class State:
    """Where a training stands: a checkpoint's ``state.json``."""

    n_batches: int
    """Minibatches done."""


@dataclass
class RunLog:
    """Where a training writes: folder, logs, progress. Only the first process has one."""

    run_dir: Path | None
    """Of checkpoints and logs; without one, nothing is kept."""
    console: Console
    hidden_from: int | None = None
    """TensorBoard forgets an earlier session's points from this step on: they come again."""
    writer: SummaryWriter | None = field(init=False, default=None)
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        if self.run_dir is not None:
            self.writer = SummaryWriter(str(self.run_dir / "logs"), purge_step=self.hidden_from)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}loss {task.fields[loss]:.3f}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console,
        )

    def write(self, name: str, figures: dict[str, float], step: int) -> None:
        """Log figures.

        Args:
            name: What is learnt; the figures' names come behind it.
            figures: By name.
            step: Minibatches done.
        """
        if self.writer is not None:
            for key, value in figures.items():
                self.writer.add_scalar(f"{name}/{key}", value, step)

    def save(self, done: int, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Leave a checkpoint; see ``restore``."""
        if self.run_dir is not None:
            save_training(self.run_dir, done, module, optimizer, State(done))

    def close(self) -> None:
        """End the progress display and the logs."""
        self.progress.stop()
        if self.writer is not None:
            self.writer.close()


def add_task(run_log: RunLog | None, name: str, total: int, done: int = 0) -> TaskID | None:
    """A line in the progress display, where there is one."""
    if run_log is None:
        return None
    return run_log.progress.add_task(name, total=total, completed=done, rate="", loss=0.0)


def restore(run_dir: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Put the newest checkpoint into a module and its optimiser.

    Returns:
        Minibatches done.

    Raises:
        UserError: There is no checkpoint, it is damaged, or it belongs to another network.
    """
    folder = newest_checkpoint(run_dir)
    moments = load_training(folder, module, "belongs to another network")
    load_optimizer_tensors(optimizer, moments)
    return load_state(State, folder).n_batches


def run(
    learner: Learner,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    source: Source,
    schedule: Schedule,
    *,
    engine: Engine,
    seed: int,
    stop: StopRequest,
    run_log: RunLog | None,
    done: int = 0,
    on_epoch: Callable[[], dict[str, float]] | None = None,
) -> bool:
    """Learn to the end of the schedule, or until the user stops it.

    Args:
        learner: Gives the loss.
        module: What a checkpoint holds.
        optimizer: Of the parameters that learn.
        source: Training images.
        schedule: How long, at what rates.
        engine: Processes.
        seed: Of order and augmentation.
        stop: The user's wish.
        run_log: Where to write; None in all processes but the first.
        done: Minibatches done already.
        on_epoch: Figures to log after each epoch.

    Returns:
        Whether the schedule was completed.

    Raises:
        UserError: Loss or weights are no longer finite numbers.
    """
    per_epoch = source.n_batches(schedule.batch_size)
    total = per_epoch * schedule.n_epochs
    shown, began, rate = 0, time.monotonic(), 0.0
    task = add_task(run_log, learner.name, total, done)
    while done < total:
        epoch, skip = divmod(done, per_epoch)
        losses, hits, seen = 0.0, torch.zeros(()), 0
        batches = source.epoch(schedule.batch_size, mix_seeds(seed, epoch), engine.shard, skip)
        for batch in _until(batches, engine, stop):
            if run_log and done == epoch * per_epoch:
                run_log.write(learner.name, learner.figures(batch), done + 1)
            rate = piecewise_rate(done / total, schedule.learning_rates, schedule.milestones)
            set_learning_rate(optimizer, rate)
            optimizer.zero_grad(set_to_none=True)
            # Dropout and the like differ from process to process, not from session to session.
            torch.manual_seed(mix_seeds(seed, done, engine.shard.rank))
            loss, right = learner.loss(batch)
            # Processes average their gradients; the minibatch's mean is over all its images.
            scaled = loss * (engine.shard.world / batch.size)
            scaled.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
            losses += loss.detach().item()
            if not math.isfinite(losses):
                raise _diverged(learner, done)
            hits = hits.to(right) + right
            seen += len(batch.images)
            shown += batch.size
            if run_log is not None and task is not None:
                run_log.progress.update(
                    task,
                    completed=done,
                    rate=f"{shown / (time.monotonic() - began):.0f} samples/s  ",
                    loss=losses / max(seen, 1),
                )
        if not are_finite(chain(module.parameters(), module.buffers())):
            raise _diverged(learner, done)
        if run_log and seen:
            figures = {"loss": losses / seen, "learning_rate": rate}
            shares = (hits / seen).tolist()
            figures |= {f"train_accuracy/exit_{m}": share for m, share in enumerate(shares)}
            if done % per_epoch == 0 and on_epoch:
                figures |= on_epoch()
            run_log.write(learner.name, figures, done)
            if not run_log.console.is_terminal:
                run_log.console.print(
                    f"{learner.name}: epoch {done / per_epoch:.2f} of {schedule.n_epochs}  "
                    f"loss {losses / seen:.4f}  accuracy {shares[-1]:.2%} at the last exit learnt"
                )
        if run_log:
            run_log.save(done, module, optimizer)
        if engine.any_stopped(stop.requested):
            break
    return done >= total


def _diverged(learner: Learner, done: int) -> UserError:
    return UserError(
        f"loss or weights of {learner.name} are no finite numbers after {done:,} minibatches; "
        "begin a new run with lower --learning-rates"
    )


def _until(batches: Iterator[Batch], engine: Engine, stop: StopRequest) -> Iterator[Batch]:
    """Batches, up to the user's wish to stop."""
    for batch in batches:
        yield batch
        if engine.any_stopped(stop.requested):
            return
