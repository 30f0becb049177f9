"""A trained policy, and the files that it is read from; random play as a policy."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ztw_rl.core.checkpoint import load_state, load_tensors
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import Provenance, load_agent
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.config import PPOState
from ztw_rl.rl.networks import FRAME_STACK, SCREEN_SIZE, from_sb3, policy_alone

POLICY_ENTRY = "policy.pth"


@dataclass(frozen=True)
class Teacher:
    """A trained policy, without its value net."""

    parameters: Mapping[str, Tensor]
    """Under ``EarlyExitModel``'s names."""
    atari: AtariConfig
    """The pixels it was trained on; ``noop_max`` is of the games that it will play."""
    provenance: Provenance
    """What is known of its training."""

    def __post_init__(self) -> None:
        """Check the pixels.

        Raises:
            UserError: NatureCNN does not read such pixels.
        """
        size, stack = self.atari.screen_size, self.atari.frame_stack
        if (size, stack) != (SCREEN_SIZE, FRAME_STACK):
            raise UserError(
                f"screen_size {size} and frame_stack {stack} do not fit the policy: a NatureCNN "
                f"reads {FRAME_STACK} frames of {SCREEN_SIZE}x{SCREEN_SIZE}"
            )

    @property
    def n_actions(self) -> int:
        """Size of the action space."""
        return len(self.parameters["head.bias"])

    def check_actions(self, n: int) -> None:
        """Make sure that the game has the policy's actions.

        Args:
            n: The game's number of actions.

        Raises:
            UserError: It does not.
        """
        if n != self.n_actions:
            raise UserError(
                f"the policy has {self.n_actions} actions, but {self.atari.game} has {n}: it was "
                "trained on another game; name that one"
            )

    def model(self) -> EarlyExitModel:
        """The policy as it is, without any IC, in eval mode."""
        model = policy_alone(self.n_actions)
        model.load_state_dict(dict(self.parameters))
        return model.eval()


def from_checkpoint(folder: Path, atari: AtariConfig, seed: int) -> Teacher:
    """The policy in a checkpoint of ``train-ppo``.

    Args:
        folder: ``…/checkpoints/step_…``.
        atari: What the run was trained on.
        seed: What it was trained with.

    Raises:
        UserError: A file is missing or damaged.
    """
    weights = folder / "policy.safetensors"
    parameters = from_sb3(load_tensors(weights), str(weights))
    n_timesteps = load_state(PPOState, folder).n_timesteps
    return Teacher(parameters, atari, Provenance(n_timesteps, seed))


def from_agent(folder: Path) -> Teacher:
    """The policy inside a trained agent; its ICs are left out.

    Raises:
        UserError: A file is missing or damaged, or the agent is a student.
    """
    agent = load_agent(folder)
    if not agent.has_exits:
        raise UserError(f"{folder} is a student, a copy of another policy; name that one")
    parameters = {
        name: tensor
        for name, tensor in agent.model.state_dict().items()
        if name.startswith(("blocks.", "head."))
    }
    provenance = replace(agent.config.provenance, ppo_noop_max=agent.config.policy_noop_max)
    return Teacher(parameters, agent.config.atari, provenance)


def from_zip(path: Path, atari: AtariConfig) -> Teacher:
    """The policy in an SB3 ``.zip``, read without executing any of its pickles.

    Args:
        path: What ``PPO.save`` wrote, for a ``CnnPolicy``.
        atari: Game and pixels it was trained on, which the file does not tell.

    Raises:
        UserError: The file is damaged or holds no plain NatureCNN ``CnnPolicy``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            stored = archive.read(POLICY_ENTRY)
        parameters = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except KeyError:
        raise UserError(f"{path} holds no '{POLICY_ENTRY}'; is it an SB3 model?") from None
    except Exception as error:
        # Some errors, such as that of an empty file, say nothing but their name.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read as an SB3 model ({reason})") from None
    if not isinstance(parameters, Mapping) or not all(
        isinstance(value, Tensor) for value in parameters.values()
    ):
        raise UserError(f"{path}: '{POLICY_ENTRY}' holds something else than weights")
    return Teacher(from_sb3(parameters, str(path)), atari, Provenance(imported_from=path.name))


class UniformLogits(nn.Module):
    """Equal logits, whatever the input is.

    Args:
        n_actions: Size of the action space.
    """

    logits: Tensor

    def __init__(self, n_actions: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(n_actions))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_actions) zeros.

        Args:
            x: (B, …), anything.
        """
        return self.logits.expand(len(x), -1)


def uniform_policy(n_actions: int) -> EarlyExitModel:
    """A policy without a network; sampled, its actions are uniformly random.

    Args:
        n_actions: Size of the action space.
    """
    return EarlyExitModel([], UniformLogits(n_actions), ics=[], attach=[]).eval()
