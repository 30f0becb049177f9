"""A trained policy, and the files that it is read from; random play as a policy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ztw_rl.core.checkpoint import load_state, load_tensors
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import Provenance, load_agent
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.batch import EnvBatch
from ztw_rl.rl.config import PPORun, PPOState
from ztw_rl.rl.environments import Environment, make_batch, noop_max_of
from ztw_rl.rl.networks.config import Activation, NetworkConfig
from ztw_rl.rl.networks.early_exit import policy_alone
from ztw_rl.rl.networks.sb3 import from_sb3, recognise
from ztw_rl.rl.sb3_zip import read_zip

STATISTICS = ("mean", "var", "epsilon", "clip_obs")
"""What ``VecNormalize`` keeps of observations."""


@dataclass(frozen=True)
class Teacher:
    """A trained policy, without its value net."""

    parameters: Mapping[str, Tensor]
    """Under ``EarlyExitModel``'s names."""
    environment: Environment
    """What it was trained on; an Atari game's ``noop_max`` is of the games that it will play."""
    network: NetworkConfig
    """Its layers."""
    provenance: Provenance
    """What is known of its training."""

    @property
    def n_actions(self) -> int:
        """Size of the action space."""
        return len(self.parameters["head.bias"])

    def check_plays(self, batch: EnvBatch) -> None:
        """Make sure that an environment has the policy's observations and actions.

        Raises:
            UserError: It has not; the message names both.
        """
        shape, name = batch.observation_space.shape, self.environment.name
        if shape != self.network.input_shape:
            raise UserError(
                f"the policy reads observations of {self.network.input_shape}, but {name} has "
                f"{shape}; make them alike with wrappers, frame_stack or screen_size"
            )
        n = int(batch.action_space.n)
        if n != self.n_actions:
            raise UserError(
                f"the policy has {self.n_actions} actions, but {name} has {n}: it was trained on "
                "another environment; name that one"
            )

    def model(self) -> EarlyExitModel:
        """The policy as it is, without any IC, in eval mode."""
        model = policy_alone(self.n_actions, self.network)
        model.load_state_dict(dict(self.parameters))
        return model.eval()


def from_checkpoint(folder: Path, run: PPORun, environment: Environment) -> Teacher:
    """The policy in a checkpoint of ``train-ppo``.

    Args:
        folder: ``…/checkpoints/step_…``.
        run: The run's settings.
        environment: What it is to play.

    Raises:
        UserError: A file is missing or damaged.
    """
    weights = folder / "policy.safetensors"
    stored = load_tensors(weights)
    shape = _input_shape(environment)
    network = run.ppo.network_for(shape)
    policy = recognise(stored, shape, network.activation, str(weights))
    provenance = Provenance(
        load_state(PPOState, folder).n_timesteps,
        run.seed,
        imported_from=run.init,
        ppo_noop_max=noop_max_of(run.environment),
    )
    parameters = from_sb3(policy, str(weights))
    return Teacher(parameters, environment, policy.network, provenance)


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
    config = agent.config
    provenance = replace(config.provenance, ppo_noop_max=config.policy_noop_max)
    return Teacher(parameters, config.environment, config.network, provenance)


def from_zip(
    path: Path,
    environment: Environment,
    *,
    activation: Activation | None = None,
    temperature: float = 1.0,
    normalization: Path | None = None,
) -> Teacher:
    """The policy in an SB3 ``.zip``, read without executing any of its pickles.

    Args:
        path: What ``PPO.save``, ``A2C.save`` or ``DQN.save`` wrote.
        environment: What it was trained on, which the file does not tell.
        activation: Behind each hidden layer, if the file does not tell.
        temperature: Of a DQN's values.
        normalization: ``VecNormalize``'s statistics; see ``normalized``.

    Raises:
        UserError: A file is damaged, or holds no such policy.
    """
    about, parameters = read_zip(path)
    shape = _input_shape(environment)
    found = activation or about.activation
    policy = recognise(parameters, shape, found or "relu", str(path))
    if policy.network.hidden and found is None:
        raise UserError(
            f"{path} does not tell what follows its hidden layers; say --activation tanh (PPO's "
            "and A2C's default) or --activation relu (DQN's)"
        )
    if about.shape is not None and math.prod(about.shape) != math.prod(shape):
        raise UserError(
            f"{path} reads observations of {about.shape}, but {environment.name} has {shape}; make "
            "them alike with wrappers, frame_stack or screen_size"
        )
    check_scales(about.scales_images, shape, str(path))
    parameters = from_sb3(policy, str(path), temperature)
    teacher = Teacher(parameters, environment, policy.network, Provenance(imported_from=path.name))
    return teacher if normalization is None else normalized(teacher, normalization)


def normalized(teacher: Teacher, path: Path) -> Teacher:
    """The policy with ``VecNormalize``'s statistics as its first layer.

    Args:
        teacher: The policy.
        path: An ``.npz`` with ``mean``, ``var``, ``epsilon`` and ``clip_obs``.

    Raises:
        UserError: The file is none of these, or is of other observations.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: np.asarray(stored[name], np.float64) for name in STATISTICS}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except KeyError as error:
        wanted = ", ".join(STATISTICS)
        raise UserError(f"{path} lacks {error.args[0]}; it must hold {wanted}") from None
    # NumPy raises whatever zip, its own header and its pickles do.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read as .npz ({reason})") from None
    mean, var, epsilon, clip = (found[name] for name in STATISTICS)
    shape = teacher.network.input_shape
    if len(shape) != 1 or mean.shape != shape or var.shape != shape:
        raise UserError(
            f"{path} normalises observations of {mean.shape}, but the policy reads {shape}; "
            "only vectors can be normalised"
        )
    sound = np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()
    if not (sound and epsilon.shape == clip.shape == () and epsilon > 0 and clip > 0):
        raise UserError(f"{path} holds no statistics: mean must be finite, the others above 0")
    return with_statistics(teacher, mean, var, float(epsilon), float(clip))


def with_statistics(
    teacher: Teacher,
    mean: npt.NDArray[np.float64],
    var: npt.NDArray[np.float64],
    epsilon: float,
    clip: float,
) -> Teacher:
    """The policy of raw observations, from one of normalised observations.

    Args:
        teacher: The policy.
        mean: (D,) of the observations.
        var: (D,).
        epsilon: Added to the variance.
        clip: Largest absolute value after normalisation.
    """
    statistics = {
        "blocks.0.mean": mean,
        "blocks.0.std": np.sqrt(var + epsilon),
        "blocks.0.clip": clip,
    }
    tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in statistics.items()}
    network = replace(teacher.network, normalizes=True)
    return replace(teacher, parameters={**teacher.parameters, **tensors}, network=network)


def check_scales(scales_images: bool, shape: tuple[int, ...], source: str) -> None:
    """A policy of images divides pixels by 255.

    Args:
        scales_images: Whether it does.
        shape: Of one observation.
        source: Where it comes from, for the error.

    Raises:
        UserError: It does not.
    """
    if len(shape) == 3 and not scales_images:
        raise UserError(
            f"{source} was trained with normalize_images=False, which is not supported for images"
        )


def _input_shape(environment: Environment) -> tuple[int, ...]:
    """Of one observation."""
    if isinstance(environment, AtariConfig):
        return (environment.frame_stack, environment.screen_size, environment.screen_size)
    batch = make_batch(environment, 1)
    try:
        return batch.observation_space.shape
    finally:
        batch.close()


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
