"""Distillation: internal classifiers (ICs), then ensembles, learn to answer as the policy does.

Source: Wołczyk et al., "Zero Time Waste" (2021), appendix A.2; the learning rates are those of
the authors' published code.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ztw_rl.console import StopRequest, TrainingProgress, decimals, graceful_stop
from ztw_rl.core.bench import threads
from ztw_rl.core.checkpoint import (
    load_optimizer_tensors,
    load_state,
    load_training,
    newest_checkpoint,
    save_training,
)
from ztw_rl.core.device import n_network_threads
from ztw_rl.core.model import METHODS, EarlyExitModel
from ztw_rl.core.training import DeadReluWatch, are_finite, freeze, piecewise_rate
from ztw_rl.errors import UserError
from ztw_rl.rl.batch import EnvBatch
from ztw_rl.rl.collector import Collector, Experience
from ztw_rl.rl.config import DistillConfig
from ztw_rl.rl.gates import GatePhase
from ztw_rl.rl.networks.config import NetworkConfig
from ztw_rl.rl.networks.early_exit import early_exit_policy
from ztw_rl.rl.phases import Epochs, Phase, build_phases
from ztw_rl.rl.student import beside_teacher
from ztw_rl.rl.teacher import Teacher


@dataclass(frozen=True)
class DistillationResult:
    """Where distillation stands when ``distill`` returns."""

    model: EarlyExitModel
    n_timesteps: int
    """Environment steps done, over all phases and sessions."""
    finished: bool
    """False if the user stopped it."""


@dataclass(frozen=True)
class State:
    """Where a distillation stands: a checkpoint's ``state.json``."""

    n_timesteps: int
    """Environment steps learnt from, over all phases."""


def build_early_exit_model(teacher: Teacher, config: DistillConfig) -> EarlyExitModel:
    """The teacher's network with ICs yet to be fitted, frozen and in eval mode.

    Raises:
        UserError: There are no such exits, or a student's teacher is no NatureCNN of its size.
    """
    network = teacher.network
    exits = config.exits or network.default_exits
    if config.method == "student":
        if network != NetworkConfig():
            raise UserError(
                "a student copies a NatureCNN on 4 frames of 84x84, which this policy is not; "
                "choose another --method"
            )
        model = beside_teacher(teacher.parameters, exits, config.student_of)
    else:
        method = METHODS[config.method]
        model = early_exit_policy(
            teacher.n_actions, network, exits, method, config.gate_names, config.pixel_head
        )
        model.load_state_dict(dict(teacher.parameters), strict=False)
    freeze(model)
    return model


def build_optimizer(
    parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
) -> torch.optim.Optimizer:
    """Adam of parameters or of groups of them; its learning rates are set later.

    Fused, since the parameters are few and small.
    """
    return torch.optim.Adam(parameters, fused=True)


def rate_groups(phase: Phase, config: DistillConfig) -> list[dict[str, Any]]:
    """A phase's parameters as an optimiser's groups.

    Each has the ``rates`` it learns at, and as ``setting`` their name.

    Args:
        phase: What is fitted.
        config: Settings.
    """
    on_pixels = {id(parameter) for parameter in phase.on_pixels()}
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in phase.parameters():
        parts[id(parameter) in on_pixels].append(parameter)
    settings = ("learning_rates", "pixel_learning_rates")
    return [
        {"params": part, "setting": setting, "rates": getattr(config, setting)}
        for part, setting in zip(parts, settings, strict=True)
        if part
    ]


def distill(
    teacher: Teacher,
    emulators: EnvBatch,
    config: DistillConfig,
    run_dir: Path,
    *,
    seed: int,
    device: torch.device,
    fitted: Mapping[str, Tensor] | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> DistillationResult:
    """Fit ICs, then ensembles, each over ``config.n_timesteps`` environment steps, then gates.

    Ctrl-C saves a checkpoint and returns. Resuming continues the step counter, the optimiser, the
    schedule and the logs; the games begin anew.

    Args:
        teacher: The policy to imitate.
        emulators: Games to play; they are not closed.
        config: Settings.
        run_dir: Holds ``checkpoints/`` and TensorBoard's logs.
        seed: Of the initial weights, the games, the draws and the minibatches.
        device: Where the network lives.
        fitted: The model's parameters but for the gates, if only those are to be fitted.
        resume: Go on from the newest checkpoint in ``run_dir``.
        console: For progress; silent without one.

    Raises:
        UserError: ``resume`` without a usable checkpoint, or loss or weights are no longer
            finite numbers.
    """
    torch.manual_seed(seed)
    model = build_early_exit_model(teacher, config).to(device)
    phases = build_phases(model, config) if fitted is None else []
    if fitted is not None:
        model.load_state_dict(dict(fitted), strict=False)
    before_gates = config.n_timesteps * len(phases)
    total = before_gates + config.gate_steps
    done, moments = 0, None
    if resume:
        checkpoint = newest_checkpoint(run_dir)
        moments = load_training(checkpoint, model, "belongs to another network or game")
        done = load_state(State, checkpoint).n_timesteps
    # After a resume the games begin anew, and should not repeat the first ones.
    fresh_seed = seed + done
    collector = Collector(
        model,
        emulators,
        n_steps=config.n_steps,
        behaviour=config.behaviour,
        action_modes=[config.action_mode],
        seed=fresh_seed,
        device=device,
        engine=config.engine,
    )
    generator = torch.Generator().manual_seed(fresh_seed)
    # A session that was killed wrote points after its last checkpoint: they come again.
    hidden = done + 1 if resume else None
    with (
        threads(n_network_threads() if device.type == "cpu" else torch.get_num_threads()),
        graceful_stop() as stop,
        TrainingProgress(phases[0].name if phases else "gates", total, done, console) as progress,
        closing(SummaryWriter(str(run_dir / "logs"), purge_step=hidden)) as writer,
    ):
        session = _Session(
            model,
            collector,
            GatePhase(model, emulators, config, fresh_seed, device),
            config,
            run_dir,
            generator,
            stop,
            progress,
            writer,
            DeadReluWatch(model.ics),
        )
        for number, phase in enumerate(phases):
            begin = number * config.n_timesteps
            if begin <= done < begin + config.n_timesteps and not stop.requested:
                done = session.run(phase, begin, done, moments if done > begin else None)
        if before_gates <= done < total and not stop.requested:
            if not phases and not resume:
                session.save(done, model.gates.parameters())
            done = session.run_gates(done)
    return DistillationResult(model, done, finished=done >= total)


@dataclass(frozen=True)
class _Session:
    """What the phases share."""

    model: EarlyExitModel
    collector: Collector
    gates: GatePhase
    config: DistillConfig
    run_dir: Path
    generator: torch.Generator
    stop: StopRequest
    progress: TrainingProgress
    writer: SummaryWriter
    watch: DeadReluWatch

    def run(self, phase: Phase, begin: int, done: int, moments: Mapping[str, Tensor] | None) -> int:
        """Fit one phase to its end, or until the user stops it.

        Args:
            phase: What is fitted.
            begin: Environment steps, over all phases, at which it began.
            done: Environment steps done.
            moments: The optimiser's state, if the phase is resumed midway.

        Returns:
            Environment steps done.
        """
        config = self.config
        end = begin + config.n_timesteps
        for parameter in phase.parameters():
            parameter.requires_grad_(True)
        optimizer = build_optimizer(rate_groups(phase, config))
        if moments is not None:
            load_optimizer_tensors(optimizer, moments)
        scores: deque[float] = deque(maxlen=100)
        saved = done
        learning: Epochs | None = None
        while done < end and not self.stop.requested:
            share = (done - begin) / config.n_timesteps
            experience = self._collect(phase, learning)
            if learning is not None:
                self._conclude(phase, learning, optimizer, scores, done)
            for group in optimizer.param_groups:
                group["lr"] = piecewise_rate(share, group["rates"], config.milestones)
            learning = Epochs(phase, experience, optimizer, config.n_epochs, self.generator)
            done = min(done + len(experience), end)
            if done - saved >= config.checkpoint_interval:
                # A checkpoint says that everything up to ``done`` has been learnt.
                self._conclude(phase, learning, optimizer, scores, done)
                learning = None
                save_training(self.run_dir, done, self.model, optimizer, State(done))
                saved = done
                self.progress.milestone()
        if learning is not None:
            self._conclude(phase, learning, optimizer, scores, done)
        freeze(self.model)
        if done > saved:
            save_training(self.run_dir, done, self.model, optimizer, State(done))
        return done

    def run_gates(self, done: int) -> int:
        """Fit the gates; what a stop leaves unfinished begins anew.

        Args:
            done: Environment steps done.

        Returns:
            Environment steps done.
        """
        if not self.gates.run(done, self.stop, self.progress, self.writer):
            return done
        parameters = list(self.model.gates.parameters())
        if not are_finite(parameters):
            raise UserError(
                "the gates' weights are no finite numbers; a new run with --distill.gates none "
                "has none"
            )
        done += self.config.gate_steps
        self.save(done, parameters)
        return done

    def save(self, done: int, parameters: Iterable[Tensor]) -> None:
        """Write a checkpoint between two phases, with an optimiser that has done nothing."""
        save_training(self.run_dir, done, self.model, build_optimizer(parameters), State(done))

    def _collect(self, phase: Phase, learning: Epochs | None) -> Experience:
        """Play, and meanwhile learn from what was played before.

        The labels are the teacher's, whoever acts, so ICs may change while they act; in return
        the emulators' threads and the learner's keep the processor busy together.
        """
        meanwhile = learning.advance if learning is not None else lambda share: None
        return self.collector.collect(phase.answers, phase.reads, meanwhile)

    def _conclude(
        self,
        phase: Phase,
        learning: Epochs,
        optimizer: torch.optim.Optimizer,
        scores: deque[float],
        done: int,
    ) -> None:
        """Finish the passes, and say how they went."""
        loss = learning.finish()
        if not (math.isfinite(loss) and are_finite(phase.parameters())):
            raise UserError(
                f"loss or weights of {phase.name} are no finite numbers after {done:,} steps; "
                "begin a new run with lower learning rates"
            )
        rates = {g["setting"].removesuffix("s"): g["lr"] for g in optimizer.param_groups}
        log(self.writer, phase, learning.experience, {"loss": loss} | rates, done)
        scores.extend(learning.experience.returns)
        mean = sum(scores) / max(len(scores), 1)
        score = f"{mean:.{decimals(mean)}f}" if scores else "-"
        self.progress.update(done, f"loss {loss:.3f}  return {score}", phase.name)
        for m in self.watch.look():
            self._warn_of_dead_relu(phase, m, optimizer, done)

    def _warn_of_dead_relu(
        self, phase: Phase, m: int, optimizer: torch.optim.Optimizer, done: int
    ) -> None:
        """Say that IC m has fallen silent, and what to do about it."""
        own = {id(parameter) for parameter in self.model.ics[m].parameters()}
        (setting,) = (
            group["setting"]
            for group in optimizer.param_groups
            if any(id(parameter) in own for parameter in group["params"])
        )
        warning = (
            f"warning: a layer of {phase.calls(m)} answers 0 to everything and has stopped "
            f"learning; a new run with lower distill.{setting} may keep it alive"
        )
        self.progress.note(warning)
        self.writer.add_text("warnings", warning, done)


def log(
    writer: SummaryWriter,
    phase: Phase,
    experience: Experience,
    figures: Mapping[str, float],
    step: int,
) -> None:
    """Write figures of one update to TensorBoard, and agreement with the teacher and returns."""
    choices = phase.answers(experience.ic_log_probs).argmax(dim=-1)
    agreement = (choices == experience.teacher_actions.unsqueeze(1)).float().mean(dim=0)
    seen = {f"agreement/exit_{m}": share for m, share in enumerate(agreement.tolist())}
    if experience.returns:
        seen["rollout/return"] = sum(experience.returns) / len(experience.returns)
    for name, value in {**figures, **seen}.items():
        writer.add_scalar(f"{phase.name}/{name}", value, step)
