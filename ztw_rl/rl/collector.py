"""Rollouts in which internal classifiers (ICs) act and the teacher's answers are kept.

Source: Wołczyk et al., "Zero Time Waste" (2021), appendix A.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ztw_rl.core.model import EarlyExitModel, ExitOutput
from ztw_rl.rl.batch import EnvBatch
from ztw_rl.rl.config import ActionMode, Behaviour, EngineName
from ztw_rl.rl.trunk import make_trunk

TEACHER_BATCH = 32
"""Samples that the teacher answers at once, while the emulators work: fewer waste time on the
overhead of a call, more keep the emulators waiting."""


@dataclass(frozen=True)
class Experience:
    """What ``Collector.collect`` kept of N environments over T steps; rows are T·N samples."""

    observations: Tensor
    """(T·N, frame_stack, H, W), uint8."""
    reads: tuple[Tensor, ...]
    """(T·N, …) tensors of the trunk's work that the epochs read again, because it is frozen; see
    ``Phase.reads``."""
    ic_log_probs: Tensor
    """(T·N, E−1, A), what each IC said alone, with the weights it had then."""
    teacher_log_probs: Tensor
    """(T·N, A)."""
    teacher_actions: Tensor
    """(T·N,) the teacher's choice, whoever acted."""
    behaviours: Tensor
    """(T·N,) the exit that was drawn to act."""
    actions: Tensor
    """(T·N,) what was done: that exit's choice."""
    returns: list[float]
    """Raw points of the full games that ended meanwhile."""

    def __len__(self) -> int:
        return len(self.observations)


def choose(log_probs: Tensor, mode: ActionMode, generator: torch.Generator) -> Tensor:
    """Actions from log-probabilities.

    Args:
        log_probs: (..., A).
        mode: The likeliest, or a sample.
        generator: Source of the samples, on the device of ``log_probs``.

    Returns:
        (...) int64.
    """
    if mode == "greedy":
        return log_probs.argmax(dim=-1)
    # Gumbel's trick. rand gives multiples of 2⁻²⁴, among them 0, at which the noise is infinite.
    uniform = torch.rand(log_probs.shape, generator=generator, device=log_probs.device)
    uniform.clamp_min_(2**-25)
    return (log_probs - (-torch.log1p(-uniform)).log()).argmax(dim=-1)


class Collector:
    """Plays N games; at each step each environment draws its own exit, which acts.

    Args:
        model: Backbone with the teacher's weights, and ICs.
        emulators: The games.
        n_steps: Steps T per environment and call of ``collect``.
        behaviour: Whether only ICs are drawn, or the teacher's own head as well.
        action_modes: How actions follow from probabilities: environments take them in turn.
        seed: Of the games, the draws and the samples.
        device: Where the model is.
        engine: What runs the backbone.
    """

    def __init__(
        self,
        model: EarlyExitModel,
        emulators: EnvBatch,
        *,
        n_steps: int,
        behaviour: Behaviour,
        action_modes: Sequence[ActionMode],
        seed: int,
        device: torch.device,
        engine: EngineName = "eager",
    ) -> None:
        self._model = model
        self._n_steps = n_steps
        self._device = device
        self._generator = torch.Generator(device).manual_seed(seed)
        self._head_acts = behaviour == "all"
        self._n_behaviours = model.n_exits if self._head_acts else model.n_exits - 1
        self._emulators = emulators
        n_envs = emulators.n_envs
        self._action_modes = action_modes
        self._n_calls = 0
        self._observations = emulators.reset(np.arange(seed, seed + n_envs))
        self._returns = np.zeros(n_envs)
        self._trunk = make_trunk(engine, model, torch.from_numpy(self._observations).to(device))

    @torch.no_grad()
    def collect(
        self,
        answers: Callable[[Tensor], Tensor],
        reads: Callable[[Sequence[ExitOutput]], tuple[Tensor, ...]] = lambda ics: (),
        meanwhile: Callable[[float], None] = lambda share: None,
    ) -> Experience:
        """Play T steps.

        Args:
            answers: From what each IC says alone, (N, E−1, A) log-probabilities, to what it
                answers; the ensemble, or nothing.
            reads: From what the ICs read in a step to what is kept of it.
            meanwhile: Work to do while emulators do theirs; called again and again with the share
                of the steps that is done. It may change the ICs: they act with the weights they
                have.

        Returns:
            What was seen, said and done.
        """
        modes = self._action_modes
        # Fewer environments than modes take turns.
        first = self._n_calls if self._emulators.n_envs < len(modes) else 0
        drawn_modes = [modes[(first + i) % len(modes)] for i in range(self._emulators.n_envs)]
        samples = torch.tensor([mode == "sample" for mode in drawn_modes], device=self._device)
        self._n_calls += 1
        kept = _Steps(self._n_steps)
        unheard: list[Tensor] = []
        heard: list[Tensor] = []
        returns: list[float] = []
        for number in range(1, self._n_steps + 1):
            observations = torch.from_numpy(self._observations)
            x = observations.to(self._device)
            ics = list(self._model.exits_of(self._trunk.reads(x)))
            x = ics[-1].features
            alone = torch.log_softmax(torch.stack([ic.logits for ic in ics], dim=1), dim=-1)
            said = answers(alone)
            if self._head_acts:
                heard.append(self._teacher(x))
                said = torch.cat([said, heard[-1].unsqueeze(1)], dim=1)
            choices = self._choose(said, samples)
            drawn = torch.randint(
                self._n_behaviours, (len(x), 1), generator=self._generator, device=self._device
            )
            actions = choices.gather(1, drawn).squeeze(1)
            self._emulators.send(actions.cpu().numpy())
            # From here on the emulators work at the same time.
            kept.append("observations", observations)
            for m, read in enumerate(reads(ics)):
                kept.append(f"reads_{m}", read)
            kept.append("ics", alone)
            kept.append("drawn", drawn.squeeze(1))
            kept.append("actions", actions)
            if self._head_acts:
                kept.append("teacher_actions", choices[:, -1])
            else:
                # Nobody waits for the teacher, and it answers many faster than one by one.
                unheard.append(x)
                if sum(map(len, unheard)) >= TEACHER_BATCH or number == self._n_steps:
                    heard.append(self._teacher(torch.cat(unheard)))
                    unheard.clear()
            kept.advance()
            meanwhile(number / self._n_steps)
            step = self._emulators.receive()
            self._observations = step.observations
            self._returns += step.rewards
            returns += self._returns[step.ended].tolist()
            self._returns[step.ended] = 0
        joined = kept.joined()
        teacher = torch.cat(heard)
        if not self._head_acts:
            by_steps = teacher.view(self._n_steps, -1, teacher.shape[-1]).transpose(0, 1)
            joined["teacher_actions"] = self._choose(by_steps, samples).transpose(0, 1).flatten()
        return Experience(
            observations=joined["observations"],
            reads=tuple(joined[name] for name in joined if name.startswith("reads_")),
            ic_log_probs=joined["ics"],
            teacher_log_probs=teacher,
            teacher_actions=joined["teacher_actions"],
            behaviours=joined["drawn"],
            actions=joined["actions"],
            returns=returns,
        )

    def _choose(self, log_probs: Tensor, samples: Tensor) -> Tensor:
        """(N, …) actions from (N, …, A), a sample in those environments, else the likeliest."""
        greedy = choose(log_probs, "greedy", self._generator)
        if not samples.any():
            return greedy
        sampled = choose(log_probs, "sample", self._generator)
        return torch.where(samples.view(-1, *[1] * (sampled.ndim - 1)), sampled, greedy)

    def _teacher(self, x: Tensor) -> Tensor:
        """(B, A) log-probabilities of the policy's own head, from what the last IC reads."""
        return torch.log_softmax(self._trunk.logits(x), dim=-1)


class _Steps:
    """Tensors of T steps, each written in place: joining them at the end would copy them again."""

    def __init__(self, n_steps: int) -> None:
        self._n_steps = n_steps
        self._step = 0
        self._stored: dict[str, Tensor] = {}

    def append(self, name: str, value: Tensor) -> None:
        """Keep this step's (N, ...) tensor."""
        if name not in self._stored:
            self._stored[name] = value.new_empty((self._n_steps, *value.shape))
        self._stored[name][self._step].copy_(value)

    def advance(self) -> None:
        """Go on to the next step."""
        self._step += 1

    def joined(self) -> dict[str, Tensor]:
        """(T·N, ...) of each name."""
        return {name: stored.flatten(0, 1) for name, stored in self._stored.items()}
