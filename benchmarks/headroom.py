"""What exit rules win back of what random exits lose, over tables of several games.

Each table is of ``ztw-rl eval --costs``. Where random exits lose less than 5 % of the return over
random play, no rule can win much: such rows are shown, but do not count below. Where the rule and
confidence do not cost the same, up to 0.01, the two are not compared. Run it with
``python -m benchmarks.headroom FOLDER ...``; tables of greedy and of sampled actions are told
apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ztw_rl import recipes
from ztw_rl.core.statistics import Interval
from ztw_rl.errors import UserError
from ztw_rl.rl.config import JSON
from ztw_rl.rl.report.headroom import LEAST, Headroom, lead, leads_by_game, of_table, recovered
from ztw_rl.rl.tables import StoredTable, load_table


@dataclass(frozen=True)
class Settings:
    """Which tables."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Of ``ztw-rl eval``."""


def main(settings: Settings) -> None:
    """Read, compute and print."""
    tables = [load_table(folder / JSON) for folder in settings.folders]
    for mode in dict.fromkeys(table.action_mode for table in tables):
        _print(mode, [table for table in tables if table.action_mode == mode])


def _print(mode: str, tables: Sequence[StoredTable]) -> None:
    """Rows of one way of acting, then what they amount to."""
    games = ", ".join(f"{t.game} {len(t.rows[0].returns)} from {t.seed}" for t in tables)
    print(f"## {mode} actions; games and first seeds: {games}\n")
    rules = "/".join(dict.fromkeys(table.rule for table in tables))
    print(f"| game | cost | realised | full | random exits | headroom | {rules} | confidence |")
    print("|---|---|---|---|---|---|---|---|")
    counted: list[Headroom] = []
    for table in tables:
        random_return = recipes.load(table.game).random_return
        assert random_return is not None
        for each in of_table(table, random_return):
            if each.beside is None:
                raise UserError(f"{table.path} is of confidence alone, which has nothing beside it")
            costs = f"{each.rule.relative_macs:.3f}, {each.beside.relative_macs:.3f}"
            won = ["", ""]
            if each.share >= LEAST:
                counted.append(each)
                won = [_spelled(each.recovered(row)) for row in (each.rule, each.beside)]
            print(
                f"| {table.game} | {each.aim:g} | {costs}{' (apart)' if each.is_off else ''} "
                f"| {each.full.mean:,.1f} | {each.random.mean:,.1f} | {each.share:.1%} "
                f"| {won[0]} | {won[1]} |"
            )
    if not counted:
        return
    won_back = recovered(counted, [each.rule for each in counted])
    print(f"\nmean of {len(counted)} rows with headroom: the rule recovers {_spelled(won_back)}")
    alike = [each for each in counted if not each.is_off]
    if not alike:
        return
    others = recovered(alike, [each.beside for each in alike if each.beside is not None])
    print(
        f"in {len(alike)} rows of equal costs confidence recovers {_spelled(others)}, and the "
        f"rule's lead is {_spelled(lead(alike))}"
    )
    for game, own in leads_by_game(alike).items():
        print(f"- {game}: lead {_spelled(own)}, corrected for the number of games")
    print()


def _spelled(interval: Interval) -> str:
    return f"{interval.center:.2f} ({interval.low:.2f} to {interval.high:.2f})"


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
