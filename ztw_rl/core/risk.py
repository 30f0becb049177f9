"""Settings that are shown, with a given confidence, to change few answers.

A table of losses has one row per unit (a sample, or a whole episode) and one column per candidate.
"""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LARGEST_BET = 0.9
"""Of what would ruin the gambler at a loss of 1."""


def betting(losses: Floats, target: float, confidence: float) -> float:
    """p-value of "the expected loss exceeds the target", for losses in 0 … 1.

    A gambler bets on every loss to be below the target. If none is expected to be, his wealth is
    a supermartingale that starts at 1, and exceeds 1/p at any time with a probability of at most
    p. He bets the more, the less the losses so far have varied: shares of an episode's decisions
    need far fewer units than by bounds that know the mean alone.

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting"
    (2023), as used for early exit by Jazbec et al., "Fast yet Safe" (2024).

    Args:
        losses: (N,), of independent units in an order that does not depend on them.
        target: 0 < target < 1.
        confidence: The level 1 − confidence is where the bets make the test most powerful; the
            p-value holds for every level.
    """
    n = len(losses)
    steps = np.arange(1, n + 1)
    means = (0.5 + losses.cumsum()) / (steps + 1)
    variances = (0.25 + ((losses - means) ** 2).cumsum()) / (steps + 1)
    # A bet may depend on earlier losses only.
    known = np.concatenate([[0.25], variances[:-1]])
    bets = np.sqrt(2 * math.log(1 / (1 - confidence)) / (n * known))
    bets = np.minimum(bets, LARGEST_BET / (1 - target))
    wealth = np.log1p(bets * (target - losses)).cumsum()
    return float(np.exp(-wealth.max(initial=0.0)))


def controlling_risk(losses: npt.ArrayLike, risk: float, confidence: float) -> int | None:
    """The first candidate whose risk is at most ``risk``, with probability ``confidence``.

    Learn then Test with a fixed sequence: candidates are tested from the last, the most cautious,
    to the first, each at level 1 − confidence. The first that fails ends it, so no correction for
    their number is needed. The guarantee holds for any distribution, if the units are independent
    and come from the distribution that is met later.

    Source: Angelopoulos et al., "Learn then Test" (2021).

    Args:
        losses: (N, T) in 0 … 1, of units in an order that does not depend on them; candidates not
            chosen by looking at them.
        risk: Largest expected loss allowed, 0 < risk < 1.
        confidence: Such as 0.95.

    Returns:
        The position of the last candidate that passed, or None if even the most cautious cannot
        be shown to be safe: the full model must answer then.
    """
    table = np.asarray(losses)
    chosen = None
    for candidate in reversed(range(table.shape[1])):
        p = betting(table[:, candidate].astype(float), risk, confidence) if len(table) else 1.0
        # NaN shows nothing to be safe.
        if not p <= 1 - confidence:
            break
        chosen = candidate
    return chosen


def fewest_units(risk: float, confidence: float) -> int:
    """Units that it takes to show a risk to be controlled if none of them has any loss.

    Args:
        risk: 0 < risk < 1.
        confidence: Such as 0.95.
    """

    def shown(n: int) -> bool:
        return betting(np.zeros(n), risk, confidence) <= 1 - confidence

    # Fewer show nothing to any test: losses of 1 at this rate may have missed them all.
    lowest = math.ceil(math.log(1 - confidence) / math.log(1 - risk))
    enough = lowest
    while not shown(enough):
        enough *= 2
    return bisect_left(range(enough), True, lo=lowest, key=shown)
