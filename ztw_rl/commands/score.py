"""``ztw-rl score``: what a policy scores in full games, before hours go into its exits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import tyro

from ztw_rl import recipes
from ztw_rl.atari.config import EvaluationConfig
from ztw_rl.atari.games import canonical
from ztw_rl.commands._console import plain_console
from ztw_rl.commands._games import alike_lines, counted_games, reference_line
from ztw_rl.commands._policy import PolicyArguments, load_teacher, parse_with_policy
from ztw_rl.core.settings import require_seed

if TYPE_CHECKING:
    from rich.console import Console

    from ztw_rl.atari.evaluate import RowResult
    from ztw_rl.atari.teacher import Teacher

PROG = "ztw-rl score"


@dataclass(frozen=True)
class Score(PolicyArguments):
    """Play full games with a policy as it is, on raw points, before its distillation.

    Prints its mean return beside random play's and what others' policies reach. Nothing is
    written.
    """

    seed: int = 0
    """Game k has seed + k."""
    evaluation: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(
        default_factory=EvaluationConfig
    )
    """How many games, and how they are played."""

    def __post_init__(self) -> None:
        require_seed(self)


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl score --help``.

    Returns:
        0.

    Raises:
        UserError: The command line or the policy has an error.
    """
    args, policy = parse_with_policy(
        Score, arguments, PROG, lambda r: Score(evaluation=r.evaluation, atari=r.atari)
    )

    from ztw_rl.core.statistics import summarize

    teacher = load_teacher(policy, args.atari)
    console = plain_console()
    result = _play(teacher, args, console)
    game = canonical(teacher.atari.game)
    summary = summarize(result.returns)
    sticky = teacher.atari.repeat_action_probability
    print(
        f"{policy} scores {summary.mean:,.1f} (95 % interval {summary.ci_low:,.1f} to "
        f"{summary.ci_high:,.1f}; standard deviation of games {summary.std:,.1f}) in "
        f"{len(result.returns)} games of {game}: {args.evaluation.action_mode} actions, "
        f"pixels {teacher.atari.pixels}, sticky actions {sticky:g}",
    )
    games = tuple(zip(result.returns, map(sum, result.exits), strict=True))
    for line in alike_lines(games, "return and length"):
        print(line)
    recipe = recipes.load(game)
    if recipe.random_return is not None:
        print(f"random play scores {recipe.random_return:,.1f} with sticky actions 0.1")
    if recipe.reference_return is not None:
        print(reference_line(game, recipe.reference_return))
    return 0


def _play(teacher: Teacher, args: Score, console: Console) -> RowResult:
    """All games of the policy."""
    from ztw_rl.atari.evaluate import play
    from ztw_rl.atari.make_emulators import make_batches
    from ztw_rl.atari.seats import Row
    from ztw_rl.core.backends.staged import eager
    from ztw_rl.core.device import exact_device

    device = exact_device(args.device)
    settings = args.evaluation
    batches = make_batches(teacher.atari, min(settings.n_envs, settings.n_episodes))
    try:
        teacher.check_actions(int(batches[0].action_space.n))
        with counted_games(settings.n_episodes, console) as count:
            (result,) = play(
                eager(teacher.model().to(device)),
                batches,
                [Row("backbone")],
                n_episodes=settings.n_episodes,
                seed=args.seed,
                action_mode=settings.action_mode,
                device=device,
                on_game=count,
            )
    finally:
        for emulators in batches:
            emulators.close()
    return result
