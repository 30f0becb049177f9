"""An agent's table as it is played: exits timed, then full games, each written down as it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ztw_rl import agents
from ztw_rl.console import counted_games
from ztw_rl.core.bench import ExitTimes
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import Agent, AgentConfig, Identity
from ztw_rl.rl.config import CSV, JOURNAL, JSON, PNG, EvalRun
from ztw_rl.rl.environments import begins_with, make_batches
from ztw_rl.rl.journal import Journal, taken
from ztw_rl.settings import parse_stored

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from ztw_rl.core.runtime import Backend
    from ztw_rl.decision import Rule
    from ztw_rl.rl.batch import EnvBatch
    from ztw_rl.rl.evaluate import RowResult


@dataclass(frozen=True)
class Begun:
    """All that the table needs beside the games."""

    run: EvalRun
    output: str | None
    """The folder, if it is no run folder but was named."""
    agent: AgentConfig
    identity: Identity
    times: ExitTimes
    judged_times: ExitTimes | None = None
    """Of exits that are judged by something else than their confidence."""

    def by_rule(self) -> dict[Rule, ExitTimes]:
        """Times by what exits are judged by."""
        times: dict[Rule, ExitTimes] = {"confidence": self.times}
        if self.judged_times is not None:
            assert self.run.rule in ("margin", "gate")
            times[self.run.rule] = self.judged_times
        return times


def check_free(folder: Path) -> None:
    """Find out whether a new evaluation may begin in a folder.

    Raises:
        UserError: Another was begun or finished there, whose games would be lost.
    """
    if (folder / JOURNAL).exists():
        raise taken(folder / JOURNAL)
    taken_names = [name for name in (JSON, CSV, PNG) if (folder / name).exists()]
    if taken_names:
        raise UserError(
            f"{folder} holds another evaluation ({', '.join(taken_names)}); name another --output, "
            "or delete it"
        )


def begin(folder: Path, begun: Begun) -> Journal:
    """Open the journal of a new evaluation.

    Raises:
        UserError: Another has been begun there meanwhile.
    """
    return Journal.begin(folder / JOURNAL, asdict(begun))


def reopen(folder: Path) -> tuple[Begun, Journal]:
    """What was stopped in a folder.

    Raises:
        UserError: Nothing was, its journal is damaged, or it still goes on.
    """
    journal = Journal.reopen(folder / JOURNAL)
    try:
        return parse_stored(Begun, journal.head, journal.path), journal
    except UserError as error:
        journal.close()
        raise UserError(f"{error}; delete it and evaluate again") from None


def check_agent(journal: Journal, begun: Begun, folder: Path, agent: Agent) -> None:
    """Find out whether the games played so far are this agent's.

    Raises:
        UserError: Its weights or settings are others.
    """
    if (agent.config, agent.identity()) == (begun.agent, begun.identity):
        return
    if folder != Path(begun.run.agent):
        raise UserError(
            f"{journal.path} was begun with {begun.run.agent}, and {folder} is another agent; "
            "leave out --agent to go on with it, or --resume to begin anew"
        )
    raise UserError(
        f"{folder} is no longer the agent that {journal.path} was begun with; delete "
        f"{journal.path} and evaluate again"
    )


def load(folder: Path, ensembles: bool) -> Agent:
    """An agent, with or without its ensembles.

    Raises:
        UserError: It cannot be read, or has none to leave out.
    """
    from ztw_rl.rl.agent import load_agent

    agent = load_agent(folder)
    if ensembles:
        return agent
    try:
        return agent.without_ensembles()
    except ValueError:
        method = agent.config.method
        raise UserError(f"{folder} is {method}, without ensembles; leave out --no-ensembles") from (
            None
        )


def time(agent: Agent, backend_name: str) -> ExitTimes:
    """Times per exit, of one thread of the CPU."""
    from ztw_rl.core.backends.named import make_backend
    from ztw_rl.core.bench import time_exits

    x = agent.example()
    backend = full = make_backend(backend_name, agent.model, x)
    if agent.full_network() is not agent.model:
        full = make_backend(backend_name, agent.full_network(), x)
    return time_exits(backend, x, full)


def judged(agent: Agent, folder: Path, run: EvalRun) -> Agent:
    """The agent with exits judged as the evaluation's rule needs it.

    Raises:
        UserError: It has no gates for this way of acting.
    """
    if run.rule == "patience" or run.rule == "confidence":
        return agent
    try:
        return agent.judged(run.rule, run.evaluation.action_mode)
    except UserError as error:
        remedy = f"fit them with: ztw-rl distill-ics --ics {folder}"
        if not run.ensembles:
            remedy = "gates judge the ensembles' answers, so leave out --no-ensembles"
        raise UserError(f"{folder}: {error}; {remedy}") from None


def n_games(run: EvalRun, agent: Agent) -> int:
    """Games of the agent's table, which is a single row without exits."""
    from ztw_rl.rl import evaluate

    n_episodes = run.evaluation.n_episodes
    if not agent.has_exits:
        return n_episodes
    return evaluate.n_games(len(run.thresholds), len(run.beside), agent.model.n_exits, n_episodes)


@contextmanager
def emulators_for(run: EvalRun, agent: Agent) -> Iterator[Sequence[EnvBatch]]:
    """Emulators that the agent can play on.

    Raises:
        UserError: It has not their number of actions.
    """
    config = agent.config
    environment = begins_with(config.environment, run.evaluation.noop_max)
    batches = make_batches(environment, min(run.evaluation.n_envs, n_games(run, agent)))
    try:
        n_actions = int(batches[0].action_space.n)
        if n_actions != config.n_actions:
            raise UserError(
                f"{Path(run.agent) / agents.CONFIG_FILE}: the agent has {config.n_actions} "
                f"actions, but {environment.name} has {n_actions}; these are another game's "
                "weights"
            )
        yield batches
    finally:
        for emulators in batches:
            emulators.close()


RANDOM_GAMES = 30
"""Where no recipe says what random play scores."""


def random_return(run: EvalRun, batches: Sequence[EnvBatch]) -> float:
    """What uniformly random actions score on average, in ``RANDOM_GAMES`` games."""
    import torch

    from ztw_rl.core.backends.eager import eager
    from ztw_rl.rl import evaluate
    from ztw_rl.rl.rows import Full, Row
    from ztw_rl.rl.teacher import uniform_policy

    (result,) = evaluate.play(
        eager(uniform_policy(int(batches[0].action_space.n))),
        batches,
        [Row(Full())],
        n_episodes=RANDOM_GAMES,
        seed=run.seed,
        action_mode="sample",
        device=torch.device("cpu"),
    )
    return sum(result.returns) / len(result.returns)


def play(
    run: EvalRun,
    agent: Agent,
    batches: Sequence[EnvBatch],
    device: torch.device,
    journal: Journal,
    console: Console,
) -> list[RowResult]:
    """Play what the journal does not have yet, and write it down there.

    Returns:
        The rows of the table.
    """
    from ztw_rl.core.choice import Threshold
    from ztw_rl.rl import evaluate
    from ztw_rl.rl.play import Game
    from ztw_rl.rl.rows import Row, Student, adaptive

    backend, judges = backends(run, agent, device)
    with counted_games(n_games(run, agent), console, journal.n_of(run)) as count:

        def on_game(game: Game) -> None:
            journal.add(game)
            count(game)

        settings = how(run, device, judges, journal) | {"on_game": on_game}
        if not agent.has_exits:
            return evaluate.play(backend, batches, [Row(Student())], **settings)
        rules = [adaptive(run.rule, threshold) for threshold in run.thresholds]
        beside = [Threshold(threshold) for threshold in run.beside]
        return evaluate.evaluate(
            backend, batches, rules, beside=beside, compared=run.disagreement, **settings
        )


def how(
    run: EvalRun, device: torch.device, judges: dict[Rule, Backend], journal: Journal
) -> dict[str, Any]:
    """How the games of a table are played; see ``evaluate.play``."""
    return {
        "n_episodes": run.evaluation.n_episodes,
        "seed": run.seed,
        "action_mode": run.evaluation.action_mode,
        "device": device,
        "judges": judges,
        "recall": journal.recall,
    }


def backends(
    run: EvalRun, agent: Agent, device: torch.device
) -> tuple[Backend, dict[Rule, Backend]]:
    """What runs the agent, and what runs it for exits that its rule judges by something else."""
    from ztw_rl.core.backends.named import make_backend
    from ztw_rl.core.device import n_network_threads

    x, n_threads = agent.example().to(device), n_network_threads()
    backend = make_backend(run.backend, agent.model.to(device), x, n_threads)
    judges: dict[Rule, Backend] = {}
    if run.rule in ("margin", "gate"):
        model = agent.judged(run.rule, run.evaluation.action_mode).model
        judges[run.rule] = make_backend(run.backend, model, x, n_threads)
    return backend, judges
