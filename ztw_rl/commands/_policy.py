"""Command lines that name a policy: a run of train-ppo, an agent, or an SB3 ``.zip``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ztw_rl import agents, recipes, runs
from ztw_rl.commands._arguments import parse, peek
from ztw_rl.commands._environment import EnvironmentArguments
from ztw_rl.commands.train_ppo import KIND as PPO_KIND
from ztw_rl.core.files import load_json
from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.config import PPORun
from ztw_rl.rl.environments import Environment, begins_with, noop_max_of
from ztw_rl.rl.networks.config import Activation

if TYPE_CHECKING:
    from ztw_rl.rl.teacher import Teacher

TEACHER_FILE = "teacher.safetensors"
"""A distillation run's own copy of its teacher."""
WEIGHTS_FILE = "policy.safetensors"
"""What a checkpoint of train-ppo holds."""


@dataclass(frozen=True)
class PolicyArguments(EnvironmentArguments):
    """Which policy, and where it runs; commands add what they do with it."""

    policy: Path | None = None
    """A run of train-ppo, an agent's folder, or an SB3 .zip of PPO, A2C or DQN (say its environment
    with --env; of an Atari game also --atari.pixels ale unless it was trained on SB3's own
    wrappers); by default the newest run of train-ppo."""
    env: str | None = None
    """The environment of an SB3 .zip, or a recipe of the policy's."""
    activation: Activation | None = None
    """What follows each hidden layer of an SB3 .zip, where the file does not tell."""
    normalization: Path | None = None
    """VecNormalize's statistics of an SB3 .zip: an .npz with mean, var, epsilon and clip_obs."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""


ArgsT = TypeVar("ArgsT", bound=PolicyArguments)


def parse_with_policy(
    kind: type[ArgsT],
    arguments: list[str],
    prog: str,
    default: Callable[[recipes.Recipe], ArgsT],
) -> tuple[ArgsT, Path, Environment]:
    """Parse a command line whose defaults are those of what the policy plays.

    Args:
        kind: The command's dataclass.
        arguments: Command line of the command.
        prog: What the help calls the command.
        default: What flags that are left out are, from the recipe, whose environment is the
            policy's own.

    Returns:
        The command line, where the policy is, and what it plays.

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
    environment, own = args.played(recipe), recipe.environment
    # How games begin is no matter of pixels: a policy may be distilled from other starts.
    starts = noop_max_of(own)
    alike = environment if starts is None else begins_with(environment, starts)
    if not is_zip(policy):
        if alike != own:
            flags = "--env.*" if recipe.env else "--atari.*"
            raise UserError(f"{policy} was trained on what it says; leave out {flags} flags")
        for name, given in (("activation", args.activation), ("normalization", args.normalization)):
            if given is not None:
                raise UserError(f"--{name} is for an SB3 .zip, and {policy} is none; leave it out")
    if environment.name != own.name:
        raise UserError(f"{policy} plays {own.name}; leave out --atari.game")
    return args, policy, environment


def is_zip(policy: Path) -> bool:
    """Whether this is what SB3 saves."""
    return policy.suffix.lower() == ".zip"


def load_teacher(
    args: PolicyArguments, policy: Path, environment: Environment, temperature: float = 1.0
) -> Teacher:
    """Read the policy.

    Args:
        args: What is said of an SB3 ``.zip``.
        policy: Its run, agent or file.
        environment: What it plays, and how games begin.
        temperature: Of a DQN's values.

    Raises:
        UserError: A file is missing, damaged or of another kind.
    """
    from ztw_rl.core.checkpoint import newest_checkpoint
    from ztw_rl.rl import teacher

    if is_zip(policy):
        return teacher.from_zip(
            policy,
            environment,
            activation=args.activation,
            temperature=temperature,
            normalization=args.normalization,
        )
    if temperature != 1:
        raise UserError(f"{policy} is no DQN, so it has no temperature; leave it out")
    if _is_ppo_run(policy):
        run = runs.load_config(PPORun, policy)
        return teacher.from_checkpoint(newest_checkpoint(policy), run, environment)
    return replace(teacher.from_agent(_agent(policy)), environment=environment)


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
    """The recipe of what a policy plays, with the environment that it was trained on.

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
            raise UserError(
                f"say what {policy} plays, such as --env Pong or --env CartPole-v1"
            ) from None
        if recipe.env is not None:
            return recipe
        # A game's was trained on SB3's pixels.
        return replace(recipe, atari=replace(recipe.atari, pixels="sb3"))
    if _is_ppo_run(policy):
        own = runs.load_config(PPORun, policy).environment
    else:
        own = agents.stored_environment(_agent(policy))
    if env and recipes.load(env).environment.name != own.name:
        raise UserError(f"{policy} plays {own.name}, not {env}; leave out --env")
    recipe = recipes.load(env) if env else recipes.of(own)
    if isinstance(own, AtariConfig):
        default = recipes.load(env or own.game).atari.noop_max
        return replace(recipe, atari=replace(own, noop_max=default))
    return replace(recipe, env=own)


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
