"""An evaluation that is going on, or was stopped: what it was begun with, and its games so far."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ztw_rl.atari.agent import Agent, Identity
from ztw_rl.atari.journal import Journal
from ztw_rl.commands._curve import EvalRun
from ztw_rl.core.timing import ExitTimes
from ztw_rl.errors import UserError
from ztw_rl.schema import parse

JOURNAL = "games.jsonl"


@dataclass(frozen=True)
class Begun:
    """All that the table needs beside the games."""

    run: EvalRun
    identity: Identity
    times: ExitTimes


def begin(folder: Path, begun: Begun) -> Journal:
    """Open the journal of a new evaluation; ``check_free`` comes first."""
    return Journal.begin(folder / JOURNAL, asdict(begun))


def check_free(folder: Path) -> None:
    """Find out whether a new evaluation may begin in a folder.

    Raises:
        UserError: Another was stopped there, whose games would be lost.
    """
    if (folder / JOURNAL).exists():
        raise UserError(
            f"{folder / JOURNAL} holds the games of an evaluation that was stopped; go on with "
            f"--resume {folder}, or delete it"
        )


def reopen(folder: Path) -> tuple[Begun, Journal]:
    """What was stopped in a folder.

    Raises:
        UserError: Nothing was, or its journal is damaged.
    """
    journal = Journal.reopen(folder / JOURNAL)
    return parse(Begun, journal.head, journal.path), journal


def check_agent(folder: Path, begun: Begun, agent: Agent) -> None:
    """Find out whether games played so far are this agent's.

    Raises:
        UserError: Its weights are others.
    """
    if agent.identity() != begun.identity:
        raise UserError(
            f"{begun.run.agent} holds other weights than when {folder / JOURNAL} was begun; "
            "evaluate it anew without --resume"
        )
