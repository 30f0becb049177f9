"""The last phase of distillation: gates learn what leaving at each exit costs.

The games go on as in the other phases, but the policy's own head may act as well, so that what is
seen is what is met when decisions leave anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import isnan

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ztw_rl.console import StopRequest, TrainingProgress
from ztw_rl.core.cost import exit_costs
from ztw_rl.core.gate_training import N_EPOCHS, fit_gates
from ztw_rl.core.gates import GateSamples, greedy_regret, halved, soft_regret
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.rl.batch import EnvBatch
from ztw_rl.rl.collector import Collector
from ztw_rl.rl.config import ActionMode, DistillConfig, GateName

TARGETS: dict[GateName, Callable[[Tensor, Tensor], Tensor]] = {
    "sampled": soft_regret,
    "greedy": greedy_regret,
}
"""What gates predict, by the way in which actions follow from probabilities."""
MODES: dict[GateName, ActionMode] = {"sampled": "sample", "greedy": "greedy"}


@dataclass(frozen=True)
class GatePhase:
    """Plays, then fits the gates of a model whose ICs and ensembles are done.

    Args:
        model: With gates, whose parameters are random.
        emulators: Games to play.
        config: Settings.
        seed: Of the games, the draws and the minibatches.
        device: Where the model is.
    """

    model: EarlyExitModel
    emulators: EnvBatch
    config: DistillConfig
    seed: int
    device: torch.device

    def run(
        self, begin: int, stop: StopRequest, progress: TrainingProgress, writer: SummaryWriter
    ) -> bool:
        """Play ``config.gate_steps`` steps and fit.

        Args:
            begin: Environment steps done before.
            stop: Asked between two rollouts, and between two sets of gates.
            progress: Shows how far it is.
            writer: TensorBoard's.

        Returns:
            False if the user stopped it, which leaves the gates as they were.
        """
        samples = self.collect(lambda n: progress.update(begin + n, "", "gates"), stop)
        if samples is None:
            return False
        done = begin + self.config.gate_steps
        generator = torch.Generator().manual_seed(self.seed)
        for name in self.config.gate_names:
            if stop.requested:
                return False

            def on_epoch(epoch: int, loss: float, name: str = name) -> None:
                progress.update(done, f"{name} {epoch}/{N_EPOCHS}  loss {loss:.3f}", "gates")
                writer.add_scalar(f"gates/{name}_loss", loss, done + epoch)

            target = TARGETS[name](samples.full, samples.answers)
            gates = self.model.gates_of(name)
            explained = fit_gates(gates, samples, target, generator, on_epoch)
            for m, share in enumerate(explained):
                writer.add_scalar(f"gates/{name}_explained/exit_{m}", share, done)
            # NaN of an exit that never loses anything.
            told = ", ".join("nothing" if isnan(s) else f"{s:.0%}" for s in explained)
            macs = ", ".join(f"{share:.2%}" for share in self._shares_of_macs(name))
            progress.note(
                f"{name} gates explain {told} of the variance of the regret, for {macs} of the "
                "policy's operations"
            )
        return True

    def _shares_of_macs(self, name: GateName) -> list[float]:
        """What each gate takes of the full network's operations."""
        space = self.emulators.observation_space
        x = torch.zeros(1, *space.shape, dtype=torch.uint8 if len(space.shape) == 3 else None)
        plain = exit_costs(self.model, x.to(self.device))
        judged = exit_costs(self.model.judged(name), x.to(self.device))
        more = [b - a for a, b in zip(plain.macs, judged.macs, strict=True)]
        own = [more[0], *(b - a for a, b in pairwise(more[:-1]))]
        return [macs / plain.backbone_macs for macs in own]

    def collect(self, on_step: Callable[[int], None], stop: StopRequest) -> GateSamples | None:
        """What all exits say in ``config.gate_steps`` decisions; None if the user stops it.

        Args:
            on_step: Called with the number of samples so far.
            stop: Asked between two rollouts.
        """
        model, config = self.model, self.config
        collector = Collector(
            model,
            self.emulators,
            n_steps=config.n_steps,
            behaviour="all",
            action_modes=[MODES[name] for name in config.gate_names],
            seed=self.seed,
            device=self.device,
            engine=config.engine,
        )
        n_ics = model.n_exits - 1
        parts: dict[int, Tensor] = {}
        done = 0
        while done < config.gate_steps:
            if stop.requested:
                return None
            rollout = collector.collect(
                lambda said: model.ensembled(said)[:, :n_ics],
                # Halves: these are most of the memory.
                lambda ics: tuple(halved(ic.pooled) for ic in ics),
            )
            n = min(len(rollout), config.gate_steps - done)
            found = (*rollout.reads, rollout.ic_log_probs, rollout.teacher_log_probs)
            for i, part in enumerate(found):
                if i not in parts:
                    parts[i] = part.new_empty((config.gate_steps, *part.shape[1:]))
                parts[i][done : done + n] = part[:n]
            done += n
            on_step(done)
        *pooled, said, full = parts.values()
        return GateSamples(tuple(pooled), model.ensembled(said)[:, :n_ics], full)
