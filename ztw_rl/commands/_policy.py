"""Command lines that name a policy: a run of train-ppo, an agent, or an SB3 ``.zip``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ztw_rl import agents, recipes, runs
from ztw_rl.commands._arguments import parse, peek
from ztw_rl.commands.train_ppo import KIND as PPO_KIND
from ztw_rl.core.files import load_json
from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import AtariConfig, canonical, rom_id
from ztw_rl.rl.config import PPORun

if TYPE_CHECKING:
    from ztw_rl.rl.teacher import Teacher

TEACHER_FILE = "teacher.safetensors"
"""A distillation run's own copy of its teacher."""
WEIGHTS_FILE = "policy.safetensors"
"""What a checkpoint of train-ppo holds."""


@dataclass(frozen=True)
class PolicyArguments:
    """Which policy, and where it runs; commands add what they do with it."""

    policy: Path | None = None
    """A run of train-ppo, an agent's folder, or an SB3 .zip of a CnnPolicy (say its game with
    --env, and --atari.pixels ale unless it was trained on SB3's own wrappers); by default the
    newest run of train-ppo."""
    env: str | None = None
    """The game of an SB3 .zip, or a recipe of the policy's game."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    atari: AtariConfig = field(default_factory=AtariConfig)
    """How the emulator's frames become observations; only an SB3 .zip leaves that open."""


ArgsT = TypeVar("ArgsT", bound=PolicyArguments)


def parse_with_policy(
    kind: type[ArgsT],
    arguments: list[str],
    prog: str,
    default: Callable[[recipes.Recipe], ArgsT],
) -> tuple[ArgsT, Path]:
    """Parse a command line whose defaults are those of the policy's game.

    Args:
        kind: The command's dataclass.
        arguments: Command line of the command.
        prog: What the help calls the command.
        default: What flags that are left out are, from the game's recipe, whose pixels are the
            policy's own.

    Returns:
        The command line, its game under ALE's name, and where the policy is.

    Raises:
        UserError: The command line has an error, or there is no such policy.
    """
    early = peek(arguments, "policy", "env", "runs-dir")

    @functools.cache
    def found() -> tuple[Path, recipes.Recipe]:
        policy = _find(early["policy"], Path(early["runs-dir"] or "runs"))
        return policy, _recipe(policy, early["env"])

    args = parse(kind, arguments, prog, lambda: default(found()[1]))
    policy, recipe = found()
    # How games begin is no matter of pixels: a policy may be distilled from other starts.
    pixels = replace(args.atari, noop_max=recipe.atari.noop_max)
    if not is_zip(policy) and pixels != recipe.atari:
        raise UserError(f"{policy} was trained on the pixels it says; leave out --atari.* flags")
    if canonical(args.atari.game) != canonical(recipe.atari.game):
        raise UserError(f"{policy} plays {recipe.atari.game}; leave out --atari.game")
    return replace(args, atari=replace(args.atari, game=rom_id(args.atari.game))), policy


def is_zip(policy: Path) -> bool:
    """Whether this is what SB3 saves."""
    return policy.suffix.lower() == ".zip"


def load_teacher(policy: Path, atari: AtariConfig) -> Teacher:
    """Read the policy.

    Args:
        policy: Its run, agent or file.
        atari: Game and pixels; only an SB3 ``.zip`` does not say them itself. Also how games begin.

    Raises:
        UserError: A file is missing, damaged or of another kind.
    """
    from ztw_rl.core.checkpoint import newest_checkpoint
    from ztw_rl.rl import teacher

    if is_zip(policy):
        return teacher.from_zip(policy, atari)
    if _is_ppo_run(policy):
        run = runs.load_config(PPORun, policy)
        found = teacher.from_checkpoint(newest_checkpoint(policy), atari, run.seed)
        provenance = replace(
            found.provenance, imported_from=run.init, ppo_noop_max=run.atari.noop_max
        )
        return replace(found, provenance=provenance)
    return replace(teacher.from_agent(_agent(policy)), atari=atari)


def _find(named: str | None, runs_dir: Path) -> Path:
    """The policy that a command line names, or else the newest run of train-ppo."""
    if named is not None:
        if not named:
            raise UserError("--policy is empty; name a policy, or leave it out")
        return Path(named)
    found = runs.newest(runs_dir, PPO_KIND, holding=runs.CHECKPOINT)
    if found is None:
        raise UserError(
            f"there is no run with a checkpoint in {runs_dir / PPO_KIND}; begin with: "
            "ztw-rl train-ppo --env Pong"
        )
    return found


def _recipe(policy: Path, env: str | None) -> recipes.Recipe:
    """The recipe of the game that a policy plays, with the pixels that it was trained on.

    Games begin as the recipe says.
    """
    if is_zip(policy):
        if not policy.is_file():
            raise UserError(f"{policy} {'is a folder' if policy.exists() else 'does not exist'}")
        try:
            recipe = recipes.load(env or policy.stem)
        except UserError:
            if env:
                raise
            raise UserError(f"say which game {policy} plays, such as --env Pong") from None
        return replace(recipe, atari=replace(recipe.atari, pixels="sb3"))
    if _is_ppo_run(policy):
        atari = runs.load_config(PPORun, policy).atari
    else:
        atari = agents.stored_atari(_agent(policy))
    if env and canonical(recipes.load(env).atari.game) != canonical(atari.game):
        raise UserError(f"{policy} plays {atari.game}, not {env}; leave out --env")
    recipe = recipes.load(env or atari.game)
    return replace(recipe, atari=replace(atari, noop_max=recipe.atari.noop_max))


def _is_ppo_run(policy: Path) -> bool:
    """Whether this is a run folder of train-ppo: runs of other commands have other settings."""
    config = policy / runs.CONFIG
    if not config.is_file():
        return False
    stored = load_json(config)
    return isinstance(stored, dict) and "ppo" in stored


def _agent(policy: Path) -> Path:
    """The folder of an agent, which is all that is left for a policy to be."""
    if (policy / WEIGHTS_FILE).is_file():
        raise UserError(f"{policy} is a checkpoint; name its run, {policy.parent.parent}")
    try:
        return agents.find(str(policy), Path("runs"))
    except UserError:
        if (policy / TEACHER_FILE).is_file():
            raise
        raise UserError(
            f"{policy} is no policy; name a run of train-ppo, an agent, or an SB3 .zip"
        ) from None
