"""Methods that the report adds: controls, and the agent's own with as little as others had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ztw_rl.core.choice import Forced
from ztw_rl.rl.report.results import GameResults, MethodResult, setting_name
from ztw_rl.rl.rows import RandomExits, Who
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
    exits = {f"exit {row.threshold:.0f}": row for row in of_kind(own, Forced)}
    rows = {
        # The last exit is the full policy, at a higher price.
        ONE_EXIT: dict(list(exits.items())[:-1]),
        RANDOM_EXITS: {setting_name(row): row for row in of_kind(own, RandomExits)},
    }
    return [
        replace(own, method=replace(own.method, control=name), settings=settings)
        for name, settings in rows.items()
        if settings
    ]


def of_kind(method: MethodResult, kind: type[Who]) -> list[StoredRow]:
    """A method's rows in which one kind of rule decides."""
    return [row for row in method.rows if isinstance(row.who, kind)]


def with_terms(results: Sequence[GameResults]) -> list[GameResults]:
    """Each game with its agent's method once more, as few settings and games as others had.

    Args:
        results: The agents.
    """
    return [replace(game, methods=(*game.methods, *_on_the_others_terms(game))) for game in results]


def terms_note(results: Sequence[GameResults]) -> str:
    """Why methods are listed twice, in words; empty if none is.

    Args:
        results: The agents, before ``with_terms``.
    """
    if not any(map(_on_the_others_terms, results)):
        return ""
    return """
Choices from more settings tend to be cheaper, whatever the method, and gains are means over the
settings: an agent's own method is listed once more with as few settings and games as those beside
it had.
"""


def _on_the_others_terms(game: GameResults) -> list[MethodResult]:
    """Once for each kind of table that plain methods have, of settings that the agent has too.

    Variants, and what has no thresholds, don't count.
    """
    own = game.own
    grids = dict.fromkeys(
        (tuple(s for s in own.settings if s in m.settings), min(own.n_games, m.n_games))
        for m in game.methods
        if not m.method.qualifiers
        and m.table.rule == own.table.rule
        and m.settings.keys() <= own.settings.keys()
    )
    return [
        replace(
            own,
            method=replace(own.method, settings=settings),
            settings={s: own.settings[s].first(n) for s in settings},
            backbone=own.backbone.first(n),
            rows=tuple(row.first(n) for row in own.rows),
        )
        for settings, n in grids
        if (len(settings), n) != (len(own.settings), own.n_games)
    ]
