"""``ztw-rl score``: what a policy scores in full games, before hours go into its exits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import tyro

from ztw_rl import recipes
from ztw_rl.commands._arguments import peek, read
from ztw_rl.commands._environment import flags_of
from ztw_rl.commands._games import (
    few_distinct_lines,
    reference_line,
    start_group_lines,
    starts_lines,
)
from ztw_rl.commands._policy import PolicyArguments, load_teacher, parse_with_policy
from ztw_rl.console import counted_games, decimals, plain_console
from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.config import EvaluationConfig
from ztw_rl.rl.environments import Environment, begins_with, make_batches
from ztw_rl.settings import Ranged, Seed

if TYPE_CHECKING:
    from ztw_rl.core.model import EarlyExitModel
    from ztw_rl.rl.batch import EnvBatch
    from ztw_rl.rl.evaluate import RowResult
    from ztw_rl.rl.teacher import Teacher

PROG = "ztw-rl score"


@dataclass(frozen=True)
class Score(PolicyArguments, Ranged):
    """Play full games with a policy as it is, on raw points, before its distillation.

    Prints its mean return beside random play's and what others' policies reach. Nothing is
    written.
    """

    random: bool = False
    """Play at random instead, the game that --env names: what a recipe's random_return says."""
    seed: Seed = 0
    """Game k has seed + k."""
    evaluation: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(
        default_factory=EvaluationConfig
    )
    """How many games, and how they are played."""


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl score --help``.

    Returns:
        0.

    Raises:
        UserError: The command line or the policy has an error.
    """
    early = peek(arguments, "random", "env", "atari.noop-max")
    if early["atari.noop-max"] is not None:
        raise UserError("games begin as --noop-max says; leave out --atari.noop-max")
    if early["random"] is not None:
        return _score_random(arguments, early["env"])
    args, policy, environment = parse_with_policy(
        Score,
        arguments,
        PROG,
        lambda r: Score(evaluation=r.evaluation, **flags_of(r.environment)),
    )
    from ztw_rl.rl.starts import group_by_start

    teacher = load_teacher(args, policy, environment)
    result = _play(args, environment, _checked(teacher))
    _print(str(policy), result, environment, args.evaluation)
    sticky = ""
    if isinstance(environment, AtariConfig):
        sticky = " with sticky actions 0.1"
        for line in starts_lines((teacher.provenance.ppo_noop_max,), args.evaluation.noop_max):
            print(line)
        groups = group_by_start(result.starts, result.returns, environment.frame_skip)
        for line in start_group_lines(groups):
            print(line)
    for line in few_distinct_lines(result.films, "what they showed", is_sticky=bool(sticky)):
        print(line)
    recipe = recipes.of(environment)
    if recipe.random_return is not None:
        shown = f"{recipe.random_return:,.{decimals(recipe.random_return)}f}"
        print(f"random play scores {shown}{sticky}")
    if recipe.reference_return is not None:
        print(reference_line(environment.name, recipe.reference_return))
    return 0


def _score_random(arguments: list[str], env: str | None) -> int:
    """What uniformly random actions score."""
    recipe = recipes.load(env) if env else None
    default = Score(random=True)
    if recipe:
        default = replace(default, evaluation=recipe.evaluation, **flags_of(recipe.environment))
    default = replace(default, evaluation=replace(default.evaluation, action_mode="sample"))
    args = read(Score, arguments, PROG, default)
    if not args.random:
        raise UserError("--random is given and taken back; leave one of the two out")
    if args.policy is not None:
        raise UserError("--random plays without a policy; leave out --policy")
    if recipe is None:
        raise UserError("--random needs --env, the name of a game or an environment, such as Pong")
    action_mode = args.evaluation.action_mode
    if action_mode != "sample":
        raise UserError(f"--random draws its actions; leave out --action-mode {action_mode}")
    environment = args.played(recipe)

    from ztw_rl.rl.teacher import uniform_policy

    result = _play(args, environment, lambda batch: uniform_policy(int(batch.action_space.n)))
    _print("random play", result, environment, args.evaluation)
    return 0


def _print(
    who: str, result: RowResult, environment: Environment, evaluation: EvaluationConfig
) -> None:
    """The score, and how it was played."""
    from ztw_rl.core.statistics import summarize

    summary, n = summarize(result.returns), len(result.returns)
    how = "greedy actions" if evaluation.action_mode == "greedy" else "sampled actions"
    if isinstance(environment, AtariConfig):
        how += (
            f", pixels {environment.pixels}, sticky actions "
            f"{environment.repeat_action_probability:g}, noop_max {evaluation.noop_max}"
        )
    d = decimals(summary.mean, summary.ci_low, summary.ci_high)
    print(
        f"{who} scores {summary.mean:,.{d}f} (95 % interval {summary.ci_low:,.{d}f} to "
        f"{summary.ci_high:,.{d}f}; standard deviation of games {summary.std:,.{d}f}) in "
        f"{n} {'game' if n == 1 else 'games'} of {environment.name}: {how}"
    )


def _checked(teacher: Teacher) -> Callable[[EnvBatch], EarlyExitModel]:
    """The policy for an environment that it can play."""

    def model(batch: EnvBatch) -> EarlyExitModel:
        teacher.check_plays(batch)
        return teacher.model()

    return model


def _play(
    args: Score,
    environment: Environment,
    model_for: Callable[[EnvBatch], EarlyExitModel],
) -> RowResult:
    """All games of a model, made for the environment."""
    from ztw_rl.core.backends.eager import eager
    from ztw_rl.core.device import exact_device
    from ztw_rl.rl.evaluate import play
    from ztw_rl.rl.rows import Full, Row

    device = exact_device(args.device)
    settings = args.evaluation
    begun = begins_with(environment, settings.noop_max)
    batches = make_batches(begun, min(settings.n_envs, settings.n_episodes))
    try:
        model = model_for(batches[0])
        with counted_games(settings.n_episodes, plain_console()) as count:
            (result,) = play(
                eager(model.to(device)),
                batches,
                [Row(Full())],
                n_episodes=settings.n_episodes,
                seed=args.seed,
                action_mode=settings.action_mode,
                device=device,
                on_game=count,
            )
    finally:
        for batch in batches:
            batch.close()
    return result
