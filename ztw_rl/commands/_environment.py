"""Command lines that name an environment: an Atari game, or any of gymnasium's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import tyro

from ztw_rl.errors import UserError
from ztw_rl.recipes import Recipe
from ztw_rl.rl.atari.config import AtariConfig, rom_id
from ztw_rl.rl.environments import Environment
from ztw_rl.rl.gym.config import GymConfig


@dataclass(frozen=True, kw_only=True)
class EnvironmentArguments:
    """How an environment is made; a recipe or what is played gives the defaults."""

    atari: AtariConfig = field(default_factory=AtariConfig)
    """How the emulator's frames become observations; of Atari games."""
    gym: Annotated[GymConfig, tyro.conf.arg(name="env")] = field(default_factory=GymConfig)
    """How any other environment is made."""

    def played(self, recipe: Recipe) -> Environment:
        """What the command line plays.

        Args:
            recipe: Of the environment that is named.

        Raises:
            UserError: A flag is another kind's, or names another environment.
        """
        if recipe.env is None:
            if self.gym != GymConfig():
                raise UserError(f"{recipe.atari.name} is an Atari game; leave out --env.* flags")
            return replace(self.atari, game=rom_id(self.atari.game))
        if self.atari != AtariConfig():
            raise UserError(f"{recipe.env.id} is no Atari game; leave out --atari.* flags")
        if self.gym.id != recipe.env.id:
            raise UserError(f"--env names {recipe.env.id} already; leave out --env.id")
        return self.gym


def flags_of(environment: Environment) -> dict[str, Any]:
    """An environment as the field of ``EnvironmentArguments`` that it is."""
    return {"atari" if isinstance(environment, AtariConfig) else "gym": environment}
