from __future__ import annotations

import math

import numpy as np
import pytest

from ztw_rl.core.betting import LARGEST_BET, betting
from ztw_rl.core.calibration import by_means, controlling_risk


def test_two_bets_by_hand():
    # log(1/0.05) = 2.9957, n = 2. The first bet: √(2·2.9957/(2·0.25)) = 3.46, of which the cap
    # 0.9/0.8 = 1.125 is left; the loss of 0 multiplies the wealth by 1 + 1.125·0.2 = 1.225.
    # Then the mean is (0.5 + 0)/2 = 0.25, the variance (0.25 + 0.0625)/2 = 0.15625; the bet is
    # capped again, and the loss of 0.1 brings 1 + 1.125·0.1 = 1.1125.
    found = betting(np.array([[0.0], [0.1]]), 0.2, 0.95)
    assert found == pytest.approx([1 / (1.225 * 1.1125)])


def test_an_uncapped_bet_by_hand():
    # n = 1000: √(2·2.9957/(1000·0.25)) = 0.15481. A loss of 1 costs 0.15481·0.8, and the wealth
    # of the outset, 1, stays the largest.
    losses = np.ones((1000, 1))
    assert betting(losses, 0.2, 0.95) == pytest.approx([1.0])
    losses[0] = 0
    bet = math.sqrt(2 * math.log(20) / 250)
    assert betting(losses, 0.2, 0.95) == pytest.approx([1 / (1 + 0.2 * bet)])


def test_without_losses_nearly_as_sharp_as_can_be():
    # 59 units without a loss are the least by which a risk above 0.05 can be excluded.
    n = math.ceil(math.log(0.05) / math.log(0.95) / LARGEST_BET) + 1
    assert betting(np.zeros((n, 1)), 0.05, 0.95) < 0.05


def test_little_spread_needs_few_episodes():
    rng = np.random.default_rng(0)
    shares = rng.beta(16, 984, (100, 1))  # mean 0.016, standard deviation 0.004
    assert controlling_risk((0.5,), shares, 0.05, 0.95, betting) == 0.5
    assert controlling_risk((0.5,), shares, 0.05, 0.95, by_means) is None


@pytest.mark.parametrize("kind", ["coin", "beta", "skewed"])
def test_risk_is_controlled(kind):
    """1,000 draws with known risk: at most 5 % violations, 6.4 % with the draws' own noise."""
    rng = np.random.default_rng(0)
    risk, n, draws = 0.05, 120, 1000
    true = risk + 1e-4
    draw = {
        "coin": lambda: (rng.random((n, 1)) < true).astype(float),
        "beta": lambda: rng.beta(10 * true, 10 * (1 - true), (n, 1)),
        # Rarely 1, else nearly nothing: what a bettor who looks at the spread might fall for.
        "skewed": lambda: np.where(rng.random((n, 1)) < true - 0.001, 1.0, 0.001 / (1 - true)),
    }[kind]
    violations = sum(
        controlling_risk((0.5,), draw(), risk, 0.95, betting) is not None for _ in range(draws)
    )
    assert violations / draws <= 0.064
