"""Whether a policy's score depends on the emulator frame at which its games begin.

Many Atari games move their objects every other frame, and the frame skip keeps a game on the
remainder it began with. A policy that has learnt from a single start may know one remainder only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ztw_rl.core.statistics import permutation_p

ENOUGH_GAMES = 8
"""Of each group, for a test to say anything."""
SIGNIFICANT = 0.01


@dataclass(frozen=True)
class StartGroups:
    """Games by the number of emulator frames before their first decision, modulo a number."""

    modulus: int
    returns: dict[int, tuple[float, ...]]
    """Of each remainder that occurred, rising: the returns of its games."""

    @property
    def p(self) -> float | None:
        """Of equal means; None if a group has fewer than ``ENOUGH_GAMES`` or there is only one.

        A permutation test; see ``core.statistics.permutation_p``.
        """
        groups = list(self.returns.values())
        if len(groups) < 2 or min(map(len, groups)) < ENOUGH_GAMES:
            return None
        return permutation_p(groups)

    def means(self) -> dict[int, float]:
        """Mean return of each remainder."""
        return {remainder: float(np.mean(group)) for remainder, group in self.returns.items()}


def group_by_start(
    starts: Sequence[int], returns: Sequence[float], frame_skip: int
) -> tuple[StartGroups, ...]:
    """Games by parity, and by the remainder that the frame skip keeps.

    Args:
        starts: Emulator frames before each game's first decision.
        returns: What the games scored, in the same order.
        frame_skip: Emulator frames per decision.
    """
    found = []
    for modulus in sorted({2, frame_skip} - {1}):
        remainders = [start % modulus for start in starts]
        groups = {
            remainder: tuple(
                r for r, own in zip(returns, remainders, strict=True) if own == remainder
            )
            for remainder in sorted(set(remainders))
        }
        found.append(StartGroups(modulus, groups))
    return tuple(found)
