"""The report's controls: what confidence is worth beside choices of the exit that ask for none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ztw_rl import recipes
from ztw_rl.atari.gallery import GameResults, MethodResult, setting_name
from ztw_rl.atari.tables import StoredRow
from ztw_rl.core.statistics import Summary, summarize

ONE_EXIT, RANDOM_EXITS = "one exit", "random exits"


def with_controls(gallery: Sequence[GameResults]) -> list[GameResults]:
    """Each game with its agent's controls as further methods.

    Args:
        gallery: The agents.

    Returns:
        Games whose methods go on with ``one exit``, which answers everything, and ``random
        exits``, drawn in the shares of each threshold; as far as the agent's table has them.
    """
    return [replace(game, methods=(*game.methods, *_controls(game.methods[0]))) for game in gallery]


def _controls(own: MethodResult) -> list[MethodResult]:
    exits = {f"exit {row.threshold:.0f}": row for row in _of_rule(own, "forced")}
    rows = {
        # The last exit is the full policy, at a higher price.
        ONE_EXIT: dict(list(exits.items())[:-1]),
        RANDOM_EXITS: {setting_name(row): row for row in _of_rule(own, "random")},
    }
    return [
        replace(own, method=f"{own.method}, {name}", settings=settings)
        for name, settings in rows.items()
        if settings
    ]


def _of_rule(method: MethodResult, rule: str) -> list[StoredRow]:
    return [row for row in method.rows if row.rule == rule]


@dataclass(frozen=True)
class Gain:
    """How much better a method's rule plays than exits drawn at random in the same shares."""

    game: str
    method: str
    n_settings: int
    n_games: int
    share: Summary
    """Over games; of the full policy's return over random play."""


def gains(gallery: Sequence[GameResults]) -> list[Gain]:
    """What choosing exits by confidence brings, by game and method.

    A game's gain is the difference of return to the random control's game of the same seed and
    setting, mean over settings: so luck that both meet cancels, as the emulators' does.

    Args:
        gallery: The agents.

    Returns:
        A gain for each method with such controls, whose recipe tells what random play scores.
    """
    found = []
    for game in gallery:
        floor = recipes.load(game.game).random_return
        for method in game.methods:
            controls = {setting_name(row): row for row in _of_rule(method, "random")}
            shared = [s for s in method.settings if s in controls]
            if not shared or floor is None:
                continue
            differences = [
                np.subtract(method.settings[s].returns, controls[s].returns) for s in shared
            ]
            scale = method.backbone.mean - floor
            share = summarize(np.mean(differences, axis=0) / scale)
            found.append(Gain(game.game, method.method, len(shared), method.n_games, share))
    return found


def gains_frame(found: Sequence[Gain]) -> pd.DataFrame:
    """The gains for machines.

    Args:
        found: What ``gains`` gives.

    Returns:
        A row per gain, with the 95 % interval ``gain_ci_low`` … ``gain_ci_high``.
    """
    columns = ["game", "method", "settings", "games", "gain", "gain_ci_low", "gain_ci_high"]
    frame: pd.DataFrame = pd.DataFrame(
        [
            (
                g.game,
                g.method,
                g.n_settings,
                g.n_games,
                g.share.mean,
                g.share.ci_low,
                g.share.ci_high,
            )
            for g in found
        ],
        columns=columns,
    )
    return frame


def gains_markdown(found: Sequence[Gain]) -> str:
    """The gains for people, and how to read them; empty if there are none."""
    if not found:
        return ""
    lines = [
        f"| {g.game} | {g.method} | {g.n_settings} × {g.n_games} | {g.share.mean:+.1%} "
        f"({g.share.ci_low:+.1%} … {g.share.ci_high:+.1%}) |"
        for g in found
    ]
    return (
        """
| game | method | settings × games | its rule over random exits (95 % interval) |
|---|---|---|---|
"""
        + "\n".join(lines)
        + """

How much better the method's rule plays than exits drawn at random in the same shares, in shares of
the full policy's return over random play. Games of the same seed are compared, and a game's
difference is the mean over all settings; the interval is a bootstrap over seeds. Below 0 random
exits play better; where they beat the full policy itself, that is no fault of the rule.
"""
    )
