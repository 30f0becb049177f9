"""The report's controls: choices of the exit that ask for no confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ztw_rl.rl.report.results import GameResults, MethodResult, setting_name
from ztw_rl.rl.tables import StoredRow

ONE_EXIT, RANDOM_EXITS = "one exit", "random exits"


def with_controls(results: Sequence[GameResults]) -> list[GameResults]:
    """Each game with its agent's controls as further methods.

    Args:
        results: The agents.

    Returns:
        Games whose methods go on with ``one exit``, which answers everything, and ``random
        exits``, drawn in the shares of each threshold; as far as the agent's table has them.
    """
    return [replace(game, methods=(*game.methods, *_controls(game.own))) for game in results]


def _controls(own: MethodResult) -> list[MethodResult]:
    exits = {f"exit {row.threshold:.0f}": row for row in of_rule(own, "forced")}
    rows = {
        # The last exit is the full policy, at a higher price.
        ONE_EXIT: dict(list(exits.items())[:-1]),
        RANDOM_EXITS: {setting_name(row): row for row in of_rule(own, "random")},
    }
    return [
        replace(own, method=replace(own.method, control=name), settings=settings)
        for name, settings in rows.items()
        if settings
    ]


def of_rule(method: MethodResult, rule: str) -> list[StoredRow]:
    """A method's rows of one rule, such as ``random``."""
    return [row for row in method.rows if row.rule == rule]
