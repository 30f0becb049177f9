"""A trained early-exit agent as a folder: ``weights.safetensors`` and ``agent.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ztw_rl.core.checkpoint import fingerprint, load_weights, save_tensors
from ztw_rl.core.choice import Point
from ztw_rl.core.cost import exit_costs
from ztw_rl.core.files import load_json, save_json
from ztw_rl.core.model import METHODS, EarlyExitModel, without_ensemble
from ztw_rl.decision import Rule
from ztw_rl.errors import UserError
from ztw_rl.rl.config import ActionMode, GateName, MethodName, gate_for
from ztw_rl.rl.environments import InEnvironment, action_labels, noop_max_of
from ztw_rl.rl.networks.config import NATURE_WIDTHS, NetworkConfig, PixelHead
from ztw_rl.rl.networks.early_exit import early_exit_policy, policy_alone
from ztw_rl.rl.student import macs
from ztw_rl.settings import parse_stored

FORMAT = 2
CONFIG_FILE = "agent.json"
WEIGHTS_FILE = "weights.safetensors"
GATES = "gates."
"""Begins the names of the gates' parameters."""


@dataclass(frozen=True)
class Provenance:
    """How an agent came about; None where it is not known."""

    ppo_timesteps: int | None = None
    """Environment steps of PPO behind the policy; of the run alone, if that began with weights."""
    ppo_seed: int | None = None
    imported_from: str | None = None
    """File of a policy that was not trained here, or of the weights that its run began with."""
    ppo_noop_max: int | None = None
    """``noop_max`` of the games that PPO played."""
    distill_timesteps: int | None = None
    """Environment steps of each phase of distillation."""
    distill_seed: int | None = None
    teacher: str | None = None
    """Students only: the ``Identity.policy`` that they learned from."""


@dataclass(frozen=True)
class AgentConfig(InEnvironment):
    """What an agent's weights belong to, how they came about, and what it must be run on."""

    n_actions: int
    exits: tuple[str, ...]
    """Places of its ICs; a student has none."""
    method: MethodName
    provenance: Provenance = field(default_factory=Provenance)
    student_of: str | None = None
    """Students only: the exit whose operations they match."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """The policy's layers."""
    gates: tuple[GateName, ...] = ()
    """Its sets of gates."""
    pixel_head: PixelHead = "windows"
    """Its IC at the input, if it has one on images."""

    @property
    def policy_noop_max(self) -> int | None:
        """``noop_max`` of the games that its policy learnt from; None if that is not known.

        Agents that do not tell were distilled on starts like their policy's.
        """
        provenance = self.provenance
        if provenance.ppo_noop_max is None and provenance.ppo_timesteps is not None:
            return noop_max_of(self.environment)
        return provenance.ppo_noop_max


@dataclass(frozen=True)
class Identity:
    """Which weights something was made with, as ``core.checkpoint`` gives them."""

    agent: str
    """Of the whole model."""
    policy: str
    """Of the policy alone, without ICs: the same for all methods that imitate it."""
    gates: str | None = None
    """Of the gates, if exits are judged by them."""


@dataclass(frozen=True)
class Agent:
    """An early-exit policy for one game; see ``agent_of``."""

    config: AgentConfig
    model: EarlyExitModel

    @property
    def has_exits(self) -> bool:
        """Whether anything but the whole network may answer."""
        return self.model.n_exits > 1

    def full_network(self) -> EarlyExitModel:
        """What its costs are relative to: a model with the full policy as its backbone."""
        return self.model

    def example(self) -> Tensor:
        """(1, …), an observation of zeros: uint8 images, or vectors of float32."""
        shape = self.config.network.input_shape
        dtype = torch.uint8 if len(shape) == 3 else torch.float32
        return torch.zeros((1, *shape), dtype=dtype)

    def metadata(self) -> dict[str, Any]:
        """What an exported file says of it."""
        config, environment = self.config, self.config.environment
        return {
            "method": config.method,
            "answer": "action",
            "labels": action_labels(environment, config.n_actions),
            "exits": [*config.exits, "policy"],
            "relative_macs": self.relative_macs(),
            # Observations that are made in another way are another distribution.
            ("frames" if config.env is None else "env"): asdict(environment),
        }

    def relative_macs(self) -> tuple[float, ...]:
        """(E,) multiply-accumulates up to each exit, over those of the policy it imitates."""
        return exit_costs(self.model, self.example()).relative_macs

    def without_ensembles(self) -> Agent:
        """The agent as it was when its ICs were fitted: of another method, its layers shared.

        ICs come first and then stay as they are, so this is what distilling that method gives.

        Raises:
            ValueError: It has no ensembles.
        """
        model = self.model
        bare = EarlyExitModel(list(model.blocks), model.head, list(model.ics), model.attach)
        method = cast("MethodName", without_ensemble(self.config.method))
        # Gates know the ensembles' answers only.
        return Agent(replace(self.config, method=method, gates=()), bare.eval())

    def identity(self) -> Identity:
        """Which weights these are, also before they were rounded to be stored."""
        weights = self.model.state_dict()
        gates = {name: t for name, t in weights.items() if name.startswith(GATES)}
        answers = {name: t for name, t in weights.items() if not name.startswith(GATES)}
        return Identity(
            fingerprint(answers),
            policy_fingerprint(weights),
            fingerprint(gates) if self.model.rule == "gate" else None,
        )

    def at(self, point: Point) -> Agent:
        """See ``Deployable``: exported agents act greedily."""
        return self.judged(point.rule, "greedy")

    def judged(self, rule: Rule, mode: ActionMode) -> Agent:
        """The agent with exits judged by a rule; layers are shared.

        Args:
            rule: ``gate`` takes the gates that were made for the action mode.
            mode: How actions follow from probabilities.

        Raises:
            UserError: It has no such gates.
        """
        by = gate_for(mode) if rule == "gate" else rule
        if rule == "gate" and by not in self.config.gates:
            raise UserError(f"the agent has no gates for {by} actions")
        return replace(self, model=self.model.judged(by))


@dataclass(frozen=True)
class StudentAgent(Agent):
    """The control: a narrower network that imitates a policy, and has no exits."""

    def full_network(self) -> EarlyExitModel:
        """See ``Agent``: with random weights, on which neither costs nor times depend."""
        return policy_alone(self.config.n_actions, NetworkConfig()).eval()

    def relative_macs(self) -> tuple[float, ...]:
        """See ``Agent``."""
        n = self.config.n_actions
        return (macs(self.config.network.widths, n) / macs(NATURE_WIDTHS, n),)

    def without_ensembles(self) -> Agent:
        """See ``Agent``."""
        raise ValueError("a student has no ensembles")

    def identity(self) -> Identity:
        """See ``Agent``: the policy is its teacher's, if that is known."""
        own = super().identity()
        return replace(own, policy=self.config.provenance.teacher or own.policy)


def agent_of(config: AgentConfig, model: EarlyExitModel) -> Agent:
    """An agent of the kind that its configuration names."""
    kind = StudentAgent if config.method == "student" else Agent
    return kind(config, model)


def policy_fingerprint(parameters: Mapping[str, Tensor]) -> str:
    """``Identity.policy`` of parameters under ``EarlyExitModel``'s names."""
    return fingerprint(
        {name: t for name, t in parameters.items() if name.startswith(("blocks.", "head."))}
    )


def build_model(config: AgentConfig) -> EarlyExitModel:
    """The network that ``config`` describes, its parameters random."""
    if config.method == "student":
        return policy_alone(config.n_actions, config.network)
    method = METHODS[config.method]
    return early_exit_policy(
        config.n_actions,
        config.network,
        config.exits,
        method,
        config.gates,
        config.pixel_head,
    )


def save_agent(folder: Path, agent: Agent, dtype: torch.dtype = torch.float16) -> None:
    """Write an agent; the configuration comes last, so a folder that has one is complete.

    Args:
        folder: Created if need be.
        agent: The agent.
        dtype: How weights are stored; halves lose about three decimal digits, and half the size.
    """
    save_tensors(folder / WEIGHTS_FILE, agent.model.state_dict(), dtype)
    save_json(folder / CONFIG_FILE, {"format": FORMAT, **asdict(agent.config)})


def _of_nature(stored: dict[str, Any]) -> dict[str, Any]:
    """Settings of format 1, whose networks are all NatureCNNs, as those of today."""
    rest = {name: value for name, value in stored.items() if name != "widths"}
    return rest | {"network": {"widths": stored["widths"]} if "widths" in stored else {}}


def load_agent(folder: Path) -> Agent:
    """Read an agent; its model is in eval mode, float32, on the CPU.

    Raises:
        UserError: A file is missing, damaged, of another format or of another network.
    """
    path = folder / CONFIG_FILE
    stored = load_json(path)
    found = stored.pop("format", None) if isinstance(stored, dict) else None
    if found not in (1, FORMAT):
        raise UserError(f"{path} is no agent of format {FORMAT}; train it again or update ztw-rl")
    config = parse_stored(AgentConfig, _of_nature(stored) if found == 1 else stored, path)
    model = build_model(config)
    misfit = f"does not fit {path} (another game's or another method's weights?)"
    load_weights(model, folder / WEIGHTS_FILE, misfit)
    return agent_of(config, model.eval())
