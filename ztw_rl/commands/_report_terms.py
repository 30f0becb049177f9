"""The agent's own method on the terms of those beside it, which had less to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ztw_rl.rl.report.results import GameResults, MethodResult


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
