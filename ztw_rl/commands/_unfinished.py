"""An evaluation that is going on, or was stopped: what it was begun with, and its games so far."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ztw_rl.commands._curve import CSV, JOURNAL, JSON, PNG, EvalRun
from ztw_rl.core.timing import ExitTimes
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import Agent, AgentConfig, Identity
from ztw_rl.rl.journal import Journal, taken
from ztw_rl.schema import parse_stored


@dataclass(frozen=True)
class Begun:
    """All that the table needs beside the games."""

    run: EvalRun
    output: str | None
    """The folder, if it is no run folder but was named."""
    agent: AgentConfig
    identity: Identity
    times: ExitTimes


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
