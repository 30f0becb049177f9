"""Exits on a policy that the user has trained with Stable-Baselines3; see ``attach.attach``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from stable_baselines3.common.vec_env import VecEnv

from ztw_rl import fits
from ztw_rl.api import Wishes
from ztw_rl.attached.base import Learner
from ztw_rl.console import plain_console
from ztw_rl.core.choice import Threshold
from ztw_rl.core.deployable import Deployable
from ztw_rl.errors import UserError
from ztw_rl.points.targets import DEFAULT, Proposal
from ztw_rl.rl.agent import Agent, AgentConfig, save_agent
from ztw_rl.rl.config import ActionMode, DistillConfig, MethodName
from ztw_rl.rl.distill import build_early_exit_model, distill
from ztw_rl.rl.environments import placed
from ztw_rl.rl.live import LiveBatch, Model, id_of, teacher_of

UNFITTED = "not distilled yet, so the full policy answers"


@dataclass(frozen=True)
class Distillation:
    """All settings of a distillation: the ``config.json`` of its folder."""

    method: MethodName
    exits: tuple[str, ...]
    n_timesteps: int
    action_mode: ActionMode
    temperature: float
    seed: int


class AttachedPolicy(Learner):
    """A user's policy with exits; see ``attach_policy``.

    Until it is distilled the full policy answers; from then on an exit answers whose confidence
    exceeds the threshold. ``repr`` tells which it is.
    """

    learns_by = "distill"

    def __init__(
        self,
        model: Model,
        env: VecEnv,
        exits: Sequence[str] | None,
        method: MethodName,
        temperature: float,
        seed: int,
    ) -> None:
        self._batch = LiveBatch(env)
        with _chance():
            self._teacher = teacher_of(model, self._batch, id_of(env), temperature)
        self._seed = seed
        network = self._teacher.network
        places = network.default_exits if exits is None else tuple(exits)
        self._settings = DistillConfig(
            method=method, exits=places, temperature=temperature, gates="none"
        )
        with _chance():
            torch.manual_seed(seed)
            trained = build_early_exit_model(self._teacher, self._settings)
        config = AgentConfig(
            self._teacher.n_actions,
            places,
            method,
            self._teacher.provenance,
            network=network,
            **placed(self._teacher.environment),
        )
        self._agent = Agent(config, trained)
        name = self._teacher.environment.name or type(model).__name__.lower()
        labels = [str(action) for action in range(config.n_actions)]
        super().__init__(name, trained, self._agent.example(), labels, UNFITTED, seed)

    @property
    def exits(self) -> tuple[str, ...]:
        """Where the exits are; the policy's own head is the last exit."""
        return self._agent.config.exits

    @property
    def costs(self) -> tuple[float, ...]:
        """Operations up to each exit, the policy's own head last, over those of the policy."""
        return self._agent.relative_macs()

    def distill(
        self,
        n_timesteps: int = 1_000_000,
        *,
        threshold: float = DEFAULT,
        action_mode: ActionMode = "greedy",
        run_dir: str | Path | None = None,
        resume: bool = False,
        quiet: bool = False,
    ) -> AttachedPolicy:
        """Let the exits learn to answer as the policy does, by playing.

        The policy itself stays as it is. Ctrl-C saves a checkpoint, if there is a ``run_dir``, and
        raises ``KeyboardInterrupt``.

        Example:
            >>> agent = ztw_rl.attach(model, env=env).distill(n_timesteps=200_000)
            >>> evaluate_policy(agent, env)

        Args:
            n_timesteps: Environment steps of each phase: first the exits, then their ensembles.
            threshold: Confidence above which an exit answers afterwards, 0 … 1.
            action_mode: Whether the exits that act take the likeliest action or a sample.
            run_dir: Folder of settings, checkpoints and TensorBoard's logs; without one, nothing is
                kept.
            resume: Go on with the newest checkpoint in ``run_dir``.
            quiet: No progress bar.

        Returns:
            Itself.

        Raises:
            UserError: A setting is out of range, or ``run_dir`` cannot be resumed or written.
            KeyboardInterrupt: The user stopped it.
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold {threshold:g} is no confidence, which lies between 0 and 1")
        config = replace(
            self._settings,
            n_timesteps=n_timesteps,
            n_envs=self._batch.n_envs,
            action_mode=action_mode,
        )
        settings = Distillation(
            config.method,
            self.exits,
            n_timesteps,
            action_mode,
            config.temperature,
            self._seed,
        )
        path = None if run_dir is None else Path(run_dir)
        with (
            fits.folder(path, settings, resume),
            tempfile.TemporaryDirectory() as elsewhere,
            _chance(),
        ):
            result = distill(
                self._teacher,
                self._batch,
                config,
                path or Path(elsewhere),
                seed=self._seed,
                device=torch.device("cpu"),
                resume=resume,
                console=plain_console(stderr=True, quiet=quiet),
            )
        if not result.finished:
            raise KeyboardInterrupt
        provenance = replace(
            self._agent.config.provenance, distill_timesteps=n_timesteps, distill_seed=self._seed
        )
        config_of = replace(self._agent.config, provenance=provenance)
        self._trained = result.model.eval()
        self._agent = Agent(config_of, self._trained)
        self._learnt = True
        self._settle(Proposal(Threshold(threshold)), f"threshold {threshold:g}")
        return self

    def save(self, folder: str | Path) -> None:
        """Write it as an agent's folder, which ``load`` and the commands take.

        Args:
            folder: It is made if it is not there.

        Raises:
            UserError: It is not distilled yet, or cannot be written.
        """
        self._exportable()
        save_agent(Path(folder), self._agent)

    def _deployable(self) -> Deployable:
        return self._agent

    def _propose(self, wishes: Wishes) -> Proposal:
        """See ``api.Propose``: a threshold, since nothing was evaluated."""
        if wishes.threshold is None:
            raise UserError(
                f"{wishes.given()[0]} is chosen from an evaluation; save it, and evaluate it with: "
                "ztw-rl eval --agent FOLDER"
            )
        return Proposal(Threshold(wishes.threshold))


def attach_policy(
    model: Model,
    env: VecEnv,
    *,
    exits: Sequence[str] | None = None,
    method: MethodName = "ztw",
    temperature: float = 1.0,
    seed: int = 0,
) -> AttachedPolicy:
    """Hang early exits on a policy of Stable-Baselines3.

    Statistics of a ``VecNormalize`` go into the network, so what is returned takes raw
    observations.

    Example:
        >>> agent = attach_policy(model, env).distill(n_timesteps=200_000)

    Args:
        model: Trained by PPO, A2C or DQN, with ``CnnPolicy`` or ``MlpPolicy``. It stays as it is.
        env: What it plays, wrapped as in its training.
        exits: Places: some of input, conv1, conv2, conv3 of a NatureCNN, or input, layer1, … of
            hidden layers; by default conv1 and conv2, or all hidden layers but the last.
        method: ``ztw``, ``sdn``, ``cascade`` or ``ensemble``.
        temperature: Of a DQN, whose policy is the softmax of its values at this temperature.
        seed: Of the exits' initial weights and of the games.

    Raises:
        UserError: The policy or the environments are of another kind.
    """
    return AttachedPolicy(model, env, exits, method, temperature, seed)


def _chance() -> AbstractContextManager[None]:
    """Leaves torch's global generator as it was."""
    return torch.random.fork_rng([])
