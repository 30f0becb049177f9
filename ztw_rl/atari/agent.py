"""A trained early-exit agent as a folder: ``weights.safetensors`` and ``agent.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ztw_rl.atari.backbone import early_exit_nature_cnn
from ztw_rl.atari.config import AtariConfig, MethodName
from ztw_rl.core.checkpoint import load_json, load_tensors, save_json, save_tensors
from ztw_rl.core.methods import METHODS
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.errors import UserError
from ztw_rl.schema import parse

FORMAT = 1
CONFIG_FILE = "agent.json"
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class Provenance:
    """How an agent came about; None where it is not known."""

    ppo_timesteps: int | None = None
    """Environment steps of PPO behind the policy."""
    ppo_seed: int | None = None
    imported_from: str | None = None
    """File of a policy that was not trained here."""
    distill_timesteps: int | None = None
    """Environment steps of each stage of distillation."""
    distill_seed: int | None = None


@dataclass(frozen=True)
class AgentConfig:
    """What an agent's weights belong to, and how they came about."""

    atari: AtariConfig
    """The pixels it was trained on, and must be run on."""
    n_actions: int
    exits: tuple[str, ...]
    """Places of its ICs."""
    method: MethodName
    provenance: Provenance = field(default_factory=Provenance)


@dataclass(frozen=True)
class Agent:
    """An early-exit policy for one game."""

    config: AgentConfig
    model: EarlyExitModel

    def example(self) -> Tensor:
        """(1, frame_stack, H, W) uint8, a black observation."""
        atari = self.config.atari
        size = (1, atari.frame_stack, atari.screen_size, atari.screen_size)
        return torch.zeros(size, dtype=torch.uint8)


def build_model(config: AgentConfig) -> EarlyExitModel:
    """The network that ``config`` describes, its parameters random."""
    return early_exit_nature_cnn(config.n_actions, config.exits, METHODS[config.method])


def save_agent(folder: Path, agent: Agent, dtype: torch.dtype = torch.float16) -> None:
    """Write an agent; the configuration comes last, so a folder that has one is complete.

    Args:
        folder: Created if need be.
        agent: The agent.
        dtype: How weights are stored; halves lose about three decimal digits, and half the size.
    """
    save_tensors(folder / WEIGHTS_FILE, agent.model.state_dict(), dtype)
    save_json(folder / CONFIG_FILE, {"format": FORMAT, **asdict(agent.config)})


def load_agent(folder: Path) -> Agent:
    """Read an agent; its model is in eval mode, float32, on the CPU.

    Raises:
        UserError: A file is missing, damaged, of another format or of another network.
    """
    path = folder / CONFIG_FILE
    stored = load_json(path)
    if not isinstance(stored, dict) or stored.pop("format", None) != FORMAT:
        raise UserError(f"{path} is no agent of format {FORMAT}; train it again or update ztw-rl")
    config = parse(AgentConfig, stored, path)
    model = build_model(config)
    weights = folder / WEIGHTS_FILE
    try:
        model.load_state_dict(load_tensors(weights))
    except RuntimeError:
        raise UserError(
            f"{weights} does not fit {path} (another game's or another method's weights?)"
        ) from None
    return Agent(config, model.eval())
