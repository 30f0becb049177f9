"""Evidence that a mean is small, from a gambler's wealth."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LARGEST_BET = 0.9
"""Of what would ruin the gambler at a loss of 1."""


def betting(losses: Floats, target: float, confidence: float) -> Floats:
    """p-values of "the expected loss exceeds the target", for losses in 0 … 1.

    A gambler bets on every loss to be below the target. If none is expected to be, his wealth is
    a supermartingale that starts at 1, and exceeds 1/p at any time with a probability of at most
    p. He bets the more, the less the losses so far have varied, so that losses of little spread,
    such as shares of an episode's decisions, are told from the target by far fewer units than by
    bounds that know their mean alone.

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting"
    (2023), as used for early exit by Jazbec et al., "Fast yet Safe" (2024).

    Args:
        losses: (N, T), of N independent units in an order that does not depend on them.
        target: 0 < target < 1.
        confidence: The level 1 − confidence is where the bets make the test most powerful; the
            p-values hold for every level.

    Returns:
        (T,).
    """
    n = len(losses)
    steps = np.arange(1, n + 1)[:, None]
    means = (0.5 + losses.cumsum(axis=0)) / (steps + 1)
    variances = (0.25 + ((losses - means) ** 2).cumsum(axis=0)) / (steps + 1)
    # A bet may depend on earlier losses only.
    known = np.concatenate([np.full((1, losses.shape[1]), 0.25), variances[:-1]])
    bets = np.sqrt(2 * math.log(1 / (1 - confidence)) / (n * known))
    bets = np.minimum(bets, LARGEST_BET / (1 - target))
    wealth = np.log1p(bets * (target - losses)).cumsum(axis=0)
    p_values: Floats = np.exp(-wealth.max(axis=0, initial=0.0))
    return p_values
