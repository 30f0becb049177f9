"""What a policy plays: an Atari game, or any gymnasium environment; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.gym.config import GymConfig
from ztw_rl.settings import Ranged

if TYPE_CHECKING:
    from ztw_rl.rl.batch import EnvBatch
    from ztw_rl.rl.vec_env import BatchVecEnv

Environment = AtariConfig | GymConfig


@dataclass(frozen=True, kw_only=True)
class InEnvironment(Ranged):
    """Settings that belong to one environment: exactly one of the two is given."""

    atari: AtariConfig | None = None
    """How the emulator's frames become observations."""
    env: GymConfig | None = None
    """A gymnasium environment that is no Atari game."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.atari is None) == (self.env is None):
            raise UserError("either atari or env must be given, and not both")

    @property
    def environment(self) -> Environment:
        """The one that is given."""
        found = self.env if self.atari is None else self.atari
        assert found is not None
        return found


def placed(environment: Environment) -> dict[str, Any]:
    """An environment as the argument of ``InEnvironment`` that it is."""
    return {"atari" if isinstance(environment, AtariConfig) else "env": environment}


def begins_with(environment: Environment, noop_max: int) -> Environment:
    """The environment, an Atari game beginning with so many no-ops; others start by their seeds."""
    if isinstance(environment, AtariConfig):
        return replace(environment, noop_max=noop_max)
    return environment


def noop_max_of(environment: Environment) -> int | None:
    """No-ops with which an Atari game begins; None of another environment."""
    return environment.noop_max if isinstance(environment, AtariConfig) else None


def action_labels(environment: Environment, n_actions: int) -> list[str]:
    """What each action is called: ALE's names, else numbers.

    Args:
        environment: Whose actions.
        n_actions: How many there are.
    """
    if isinstance(environment, AtariConfig):
        from ztw_rl.rl.atari.config import action_names

        return action_names(environment.game)
    return [str(action) for action in range(n_actions)]


def make_batch(environment: Environment, n_envs: int) -> EnvBatch:
    """One batch, for a network that acts and learns in turn.

    Args:
        environment: What is played.
        n_envs: Number of environments N.

    Raises:
        UserError: There is no such environment.
    """
    if isinstance(environment, AtariConfig):
        from ztw_rl.rl.atari.batches import in_background, make_emulators

        return in_background(lambda: make_emulators(environment, n_envs))
    from ztw_rl.rl.gym.batch import GymBatch

    return GymBatch(environment, n_envs)


def make_batches(environment: Environment, n_envs: int) -> list[EnvBatch]:
    """Batches that take turns: while one steps, a network decides for another.

    Args:
        environment: What is played.
        n_envs: Number of environments, over all batches.

    Raises:
        UserError: There is no such environment.
    """
    if isinstance(environment, AtariConfig):
        from ztw_rl.rl.atari import batches

        return [*batches.make_batches(environment, n_envs)]
    from ztw_rl.rl.gym.batch import GymBatch

    # What steps in this process cannot step meanwhile.
    halves = [n_envs // 2, n_envs - n_envs // 2]
    sizes = halves if environment.vectorization == "async" else [n_envs]
    return [GymBatch(environment, size) for size in sizes if size]


def make_vec_env(
    environment: Environment, n_envs: int, seed: int, reward_scale: float = 1.0
) -> BatchVecEnv:
    """The learner's view, for Stable-Baselines3.

    Args:
        environment: What is played.
        n_envs: Number of environments.
        seed: The first episode of environment i has ``seed + i``.
        reward_scale: The learner's rewards are multiplied by it.

    Raises:
        UserError: There is no such environment.
    """
    if isinstance(environment, AtariConfig):
        from ztw_rl.rl.atari.vec_env import AtariVecEnv

        return AtariVecEnv(environment, n_envs, seed, reward_scale=reward_scale)
    from ztw_rl.rl.gym.batch import GymBatch
    from ztw_rl.rl.vec_env import BatchVecEnv

    return BatchVecEnv(GymBatch(environment, n_envs), seed, reward_scale)
