"""What is said about full games: their starts, how few differ, what others score."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ztw_rl.rl.starts import StartGroups


def reference_line(game: str, reference_return: tuple[float, float]) -> str:
    """What others' full policies score, in words.

    Args:
        game: As recipes are called.
        reference_return: The lowest and the highest that they report.
    """
    low, high = (f"{bound:,.0f}" for bound in reference_return)
    shown = low if low == high else f"{low} to {high}"
    return f"full policies that others trained on {game} score {shown}"


def starts_lines(trained: Collection[int | None], played: int) -> list[str]:
    """A line where games began otherwise in training than they do now.

    Args:
        trained: ``noop_max`` of policy and ICs; None if it is not known.
        played: ``noop_max`` of the games.
    """
    others = sorted({noop_max for noop_max in trained if noop_max not in (None, played)})
    if not others:
        return []
    told = " and ".join(map(str, others))
    return [f"trained on games that begin with noop_max {told}, played with noop_max {played}"]


def start_group_lines(groupings: Sequence[StartGroups]) -> list[str]:
    """What games score by their start, and a warning where that is no chance.

    Args:
        groupings: What ``rl.starts.group_by_start`` gives.
    """
    from ztw_rl.rl.starts import ENOUGH_GAMES, SIGNIFICANT

    lines = []
    for groups in groupings:
        if len(groups.returns) < 2:
            continue
        shown = ", ".join(
            f"{remainder}: {mean:,.1f} ({len(groups.returns[remainder])} games)"
            for remainder, mean in groups.means().items()
        )
        p = groups.p
        told = "too few games to test" if p is None else f"p = {p:.4f}"
        lines.append(
            f"by emulator frames before the first decision, mod {groups.modulus}: {shown}; {told}"
        )
    if not lines:
        return ["all games began after as many frames, so nothing is known of other starts"]
    tests = [p for groups in groupings if (p := groups.p) is not None]
    if not tests:
        lines.append(
            f"whether the score depends on the start needs {ENOUGH_GAMES} games a group; play more "
            "with --n-episodes"
        )
    elif min(tests) * len(tests) < SIGNIFICANT:  # each test is a chance of a false alarm
        lines.append(
            "warning: the score depends on how games begin; train the policy on varied starts "
            "(atari.noop_max)"
        )
    return lines


def few_distinct_lines(games: Collection[Hashable], told_by: str, *, is_sticky: bool) -> list[str]:
    """A warning where few of the full policy's games differ.

    Args:
        games: What is known of each; see ``core.statistics.few_distinct``.
        told_by: What that is, in words.
        is_sticky: Whether sticky actions should have made them differ.
    """
    from ztw_rl.core.statistics import few_distinct

    distinct = few_distinct(games)
    if distinct is None:
        return []
    why = "if sticky actions hardly disturb it, intervals" if is_sticky else "intervals"
    return [
        f"only {distinct} of the full policy's {len(games)} games differ in {told_by}: {why} say "
        "little; see also --action-mode sample"
    ]
