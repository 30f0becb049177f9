"""A trained Stable-Baselines3 model and its environments, as objects of the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecNormalize,
    VecTransposeImage,
    unwrap_vec_normalize,
)
from torch import Tensor, nn

from ztw_rl.errors import UserError
from ztw_rl.rl.agent import Provenance
from ztw_rl.rl.batch import Flags, Frames, Observations, checked_actions
from ztw_rl.rl.gym.config import GymConfig
from ztw_rl.rl.networks.config import Activation
from ztw_rl.rl.networks.sb3 import from_sb3, recognise
from ztw_rl.rl.teacher import Teacher, check_scales, with_statistics

Model = PPO | A2C | DQN
ACTIVATIONS: dict[type[nn.Module], Activation] = {nn.ReLU: "relu", nn.Tanh: "tanh"}


class LiveTransition(NamedTuple):
    """What one step of N environments gave; see ``rl.batch.Transition``."""

    observations: Observations
    rewards: npt.NDArray[np.float64]
    ended: Flags
    truncated: Flags
    final_observations: Observations


class LiveBatch:
    """A ``VecEnv`` of the user's own behind ``EnvBatch``, its observations before normalisation.

    All environments begin together: a ``VecEnv`` cannot begin some of its episodes anew. Statistics
    of a ``VecNormalize`` stay as they are.

    Args:
        env: The environments; a ``VecNormalize`` must be the outermost wrapper.

    Raises:
        UserError: It is no ``VecEnv``, its spaces are of other kinds, or the ``VecNormalize`` lies
            inside.
    """

    def __init__(self, env: VecEnv) -> None:
        if not isinstance(env, VecEnv):
            raise UserError(
                f"env is a {type(env).__name__} and no VecEnv; make one with make_vec_env, or take "
                "model.get_env()"
            )
        self.normalizer = unwrap_vec_normalize(env)
        if self.normalizer is not None and not isinstance(env, VecNormalize):
            raise UserError("VecNormalize must be the outermost wrapper of env")
        space = env.observation_space
        if not isinstance(space, Box) or not isinstance(env.action_space, Discrete):
            raise UserError(
                f"env has observations {type(space).__name__} and actions "
                f"{type(env.action_space).__name__}; only Box and Discrete can be answered early"
            )
        if is_image_space(space) and not is_image_space_channels_first(space):
            env = VecTransposeImage(env)
            space = env.observation_space
        assert isinstance(space, Box)
        self._env = env
        self._images = is_image_space(space)
        self.n_envs = env.num_envs
        self.action_space: Discrete = env.action_space  # type: ignore[assignment]
        shape = space.shape if self._images else (int(np.prod(space.shape)),)
        low, high, dtype = (0, 255, np.uint8) if self._images else (-np.inf, np.inf, np.float32)
        self.observation_space: Box = Box(low, high, shape, dtype)
        self.episode_frames: Frames = np.zeros(self.n_envs, np.int32)

    @contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        """A ``VecNormalize`` learns nothing meanwhile."""
        if self.normalizer is None:
            yield
            return
        training, self.normalizer.training = self.normalizer.training, False
        try:
            yield
        finally:
            self.normalizer.training = training

    def _seen(self, observations: object) -> Observations:
        """As the network reads them."""
        raw = observations if self.normalizer is None else self.normalizer.get_original_obs()
        array = np.asarray(raw)
        if self._images:
            return np.ascontiguousarray(array)
        return np.ascontiguousarray(array.reshape(len(array), -1), np.float32)

    def reset(self, seeds: npt.NDArray[np.int64], which: Flags | None = None) -> Observations:
        """Start all episodes anew; see ``EnvBatch.reset``."""
        if which is not None and not which.all():
            raise ValueError("a VecEnv begins all of its episodes together")
        self._env.seed(int(seeds[0]))
        self.episode_frames[:] = 0
        with self._statistics_kept():
            return self._seen(self._env.reset())

    def send(self, actions: npt.NDArray[np.int64]) -> None:
        """Begin a step; see ``EnvBatch.send``."""
        self._env.step_async(checked_actions(actions, self.n_envs, self.action_space))

    def receive(self) -> LiveTransition:
        """Wait for the step that ``send`` began."""
        with self._statistics_kept():
            found, rewards, dones, infos = self._env.step_wait()
        if self.normalizer is not None:
            rewards = self.normalizer.get_original_reward()
        seen = self._seen(found)
        truncated = np.array([bool(info.get("TimeLimit.truncated")) for info in infos])
        self.episode_frames = np.where(dones, 0, self.episode_frames + 1).astype(np.int32)
        # Nobody who imitates a policy reads an episode's last observation.
        return LiveTransition(seen, np.asarray(rewards, float), dones, truncated & dones, seen)

    def step(self, actions: npt.NDArray[np.int64]) -> LiveTransition:
        """``send`` and ``receive``."""
        self.send(actions)
        return self.receive()

    def close(self) -> None:
        """Nothing: the environments are the user's."""


def teacher_of(model: Model, batch: LiveBatch, env_id: str, temperature: float) -> Teacher:
    """The policy of a model, with its environment's statistics as the first layer.

    Args:
        model: Trained by PPO, A2C or DQN.
        batch: What it plays.
        env_id: Gymnasium's id of the environment; empty if nobody knows.
        temperature: Of a DQN's values.

    Raises:
        UserError: Its network or its activation is of another kind, or it reads other observations.
    """
    source = f"the {type(model).__name__}"
    parameters: Mapping[str, Tensor] = {
        name: tensor.detach().cpu().clone() for name, tensor in model.policy.state_dict().items()
    }
    shape = batch.observation_space.shape
    kind = _activation(model)
    policy = recognise(parameters, shape, ACTIVATIONS.get(kind, "relu"), source)
    if policy.network.hidden and kind not in ACTIVATIONS:
        raise UserError(
            f"{source} has {kind.__name__} behind its hidden layers; only ReLU and Tanh are known"
        )
    check_scales(model.policy.normalize_images, shape, source)
    teacher = Teacher(
        from_sb3(policy, source, temperature),
        GymConfig(env_id),
        policy.network,
        Provenance(imported_from=type(model).__name__),
    )
    teacher.check_plays(batch)
    normalizer = batch.normalizer
    if normalizer is None or not normalizer.norm_obs:
        return teacher
    # Its annotation leaves out the statistics of Dict observations.
    found: Any = normalizer.obs_rms
    if isinstance(found, dict) or len(shape) != 1:
        raise UserError("env normalises images; only vectors can be normalised")
    return with_statistics(
        teacher,
        found.mean.reshape(-1),
        found.var.reshape(-1),
        normalizer.epsilon,
        normalizer.clip_obs,
    )


def _activation(model: Model) -> type[nn.Module]:
    """Behind the hidden layers."""
    policy: Any = model.policy
    found: type[nn.Module] = (policy.q_net if isinstance(model, DQN) else policy).activation_fn
    return found


def id_of(env: VecEnv) -> str:
    """Gymnasium's id of the environments, where they are its own; else empty."""
    try:
        spec = env.get_attr("spec")[0]
    except (AttributeError, NotImplementedError):
        return ""
    return getattr(spec, "id", "") or ""
