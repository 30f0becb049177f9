"""Where a policy is: a run of train-ppo, an agent, or an SB3 ``.zip``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ztw_rl import agents, recipes, runs
from ztw_rl.atari.config import AtariConfig, PPORun
from ztw_rl.atari.games import canonical
from ztw_rl.errors import UserError

if TYPE_CHECKING:
    from ztw_rl.atari.teacher import Teacher

TEACHER_FILE = "teacher.safetensors"
"""A distillation run's own copy of its teacher, which tells it from a run of train-ppo."""


PPO_KIND = "ppo"


def find_policy(named: str | None, runs_dir: Path) -> Path:
    """The policy that a command line names, or else the newest run of train-ppo.

    Raises:
        UserError: There is no such run.
    """
    if named:
        return Path(named)
    found = runs.newest(runs_dir, PPO_KIND, holding=runs.CHECKPOINT)
    if found is None:
        raise UserError(
            f"there is no run with a checkpoint in {runs_dir / PPO_KIND}; begin with: "
            "ztw-rl train-ppo --env Pong"
        )
    return found


def policy_recipe(policy: Path, env: str | None) -> recipes.Recipe:
    """The recipe of the game that a policy plays, with the pixels that it was trained on.

    Args:
        policy: Its run, agent or file.
        env: The game, if the user names it; only an SB3 ``.zip`` leaves that open.

    Raises:
        UserError: The game cannot be told, or it is another than ``env``.
    """
    if is_zip(policy):
        if not policy.is_file():
            raise UserError(f"{policy} does not exist")
        try:
            recipe = recipes.load(env or policy.stem)
        except UserError:
            if env:
                raise
            raise UserError(f"say which game {policy} plays, such as --env Pong") from None
        return replace(recipe, atari=replace(recipe.atari, pixels="sb3"))
    atari = stored_atari(policy)
    if env and canonical(env) != canonical(atari.game):
        raise UserError(f"{policy} plays {atari.game}, not {env}; leave out --env")
    return replace(recipes.load(atari.game), atari=atari)


def check_pixels(policy: Path, atari: AtariConfig) -> None:
    """Only an SB3 ``.zip`` leaves open how it must be run.

    Raises:
        UserError: ``atari`` is not what another kind of policy was trained on.
    """
    if not is_zip(policy) and atari != stored_atari(policy):
        raise UserError(f"{policy} was trained on the pixels it says; leave out --atari.* flags")


def is_zip(policy: Path) -> bool:
    """Whether this is what SB3 saves."""
    return policy.suffix == ".zip"


def is_ppo_run(policy: Path) -> bool:
    """Whether this is a run folder of train-ppo."""
    return (policy / runs.CONFIG).is_file() and not (policy / TEACHER_FILE).is_file()


def stored_atari(policy: Path) -> AtariConfig:
    """Game and pixels of a run or an agent."""
    if is_ppo_run(policy):
        return runs.load_config(PPORun, policy).atari
    from ztw_rl.atari.agent import load_agent

    return load_agent(agents.find(str(policy), Path("runs"))).config.atari


def load_teacher(policy: Path, atari: AtariConfig) -> Teacher:
    """Read the policy.

    Args:
        policy: Its run, agent or file.
        atari: Game and pixels; only an SB3 ``.zip`` does not say them itself.

    Raises:
        UserError: A file is missing, damaged or of another kind.
    """
    from ztw_rl.atari import teacher
    from ztw_rl.core.checkpoint import newest_checkpoint

    if is_zip(policy):
        return teacher.from_zip(policy, atari)
    if is_ppo_run(policy):
        run = runs.load_config(PPORun, policy)
        found = teacher.from_checkpoint(newest_checkpoint(policy), atari, run.seed)
        return replace(found, provenance=replace(found.provenance, imported_from=run.init))
    return teacher.from_agent(agents.find(str(policy), Path("runs")))
