"""The points of the report's figure."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ztw_rl.rl.report.results import GameResults, Method, MethodResult, games_and_backends
from ztw_rl.rl.tables import StoredRow


def points_of(results: Sequence[GameResults]) -> pd.DataFrame:
    """What the figure shows: within a game, rows of the same games.

    Args:
        results: The agents.

    Returns:
        A row per point: ``method``, a ``Method``; ``return_mean`` and ``return_std`` in raw points
        over ``games`` games; ``relative_macs`` and ``relative_time`` of a decision, the full
        policy's being 1.
    """
    frame: pd.DataFrame = pd.DataFrame(
        {
            "game": game.game,
            "method": name,
            "threshold": setting,
            "games": n,
            "relative_macs": row.first(n).relative_macs,
            "relative_time": row.first(n).relative_time,
            "return_mean": row.first(n).mean,
            "return_std": row.first(n).std,
        }
        for game in results
        for method in game.methods
        for n in [_n_compared(game, method)]
        for name, setting, row in [
            *((method.method, setting, row) for setting, row in method.settings.items()),
            *_backbone(game, method),
        ]
    )
    return frame


def _n_compared(game: GameResults, method: MethodResult) -> int:
    """Games that all methods have which choose actions alike."""
    mode = method.table.action_mode
    return min(m.n_games for m in game.methods if m.table.action_mode == mode)


def _backbone(game: GameResults, method: MethodResult) -> list[tuple[Method, str, StoredRow]]:
    """The full policy as it is drawn: once for each way of choosing actions."""
    mode = method.table.action_mode
    if method is not next(m for m in game.methods if m.table.action_mode == mode):
        return []
    return [(Method("backbone", sampled=mode == "sample"), "", method.backbone)]


def figure_note(results: Sequence[GameResults]) -> str:
    """What stands below the figure; within a game its rows have equally many games."""
    counts = [_n_compared(game, m) for game in results for m in game.methods]
    return "the first " + games_and_backends(counts, results)
