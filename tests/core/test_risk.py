from __future__ import annotations

import math

import numpy as np
import pytest

from ztw_rl.core.risk import LARGEST_BET, betting, controlling_risk, fewest_units


def test_two_bets_by_hand():
    # log(1/0.05) = 2.9957, n = 2. The first bet: √(2·2.9957/(2·0.25)) = 3.46, of which the cap
    # 0.9/0.8 = 1.125 is left; the loss of 0 multiplies the wealth by 1 + 1.125·0.2 = 1.225.
    # Then the mean is (0.5 + 0)/2 = 0.25, the variance (0.25 + 0.0625)/2 = 0.15625; the bet is
    # capped again, and the loss of 0.1 brings 1 + 1.125·0.1 = 1.1125.
    found = betting(np.array([0.0, 0.1]), 0.2, 0.95)
    assert found == pytest.approx(1 / (1.225 * 1.1125))


def test_an_uncapped_bet_by_hand():
    # n = 1000: √(2·2.9957/(1000·0.25)) = 0.15481. A loss of 1 costs 0.15481·0.8, and the wealth
    # of the outset, 1, stays the largest.
    losses = np.ones(1000)
    assert betting(losses, 0.2, 0.95) == 1.0
    losses[0] = 0
    bet = math.sqrt(2 * math.log(20) / 250)
    assert betting(losses, 0.2, 0.95) == pytest.approx(1 / (1 + 0.2 * bet))


def test_without_losses_nearly_as_sharp_as_can_be():
    # 59 units without a loss are the least by which a risk above 0.05 can be excluded.
    n = math.ceil(math.log(0.05) / math.log(0.95) / LARGEST_BET) + 1
    assert betting(np.zeros(n), 0.05, 0.95) < 0.05


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
    violations = sum(controlling_risk(draw(), risk, 0.95) is not None for _ in range(draws))
    assert violations / draws <= 0.064


@pytest.mark.parametrize("slope", [0.0, 0.05])
def test_risk_is_controlled_over_a_sequence(slope):
    """500 draws: 5 % violations at most, 7 % with the draws' own noise."""
    thresholds = np.linspace(0.1, 0.9, 17)
    risk, n, draws = 0.05, 500, 500
    # Risk falls with τ, through the target at 0.5 (or nowhere below it, the hardest case).
    true = 0.05 + 1e-4 + slope * (0.5 - thresholds)
    rng = np.random.default_rng(0)
    violations = 0
    for _ in range(draws):
        chosen = controlling_risk(rng.random((n, 1)) < true, risk, 0.95)
        violations += chosen is not None and true[chosen] > risk
    assert violations / draws <= 0.07


def test_the_first_candidate_that_fails_ends_the_sequence():
    """By hand: of 100 samples the last has no loss, the one before 50, and the first none again."""
    losses = np.zeros((100, 3))
    losses[:50, 1] = 1
    assert controlling_risk(losses, 0.1, 0.95) == 2


def test_risk_is_controlled_where_candidates_have_nothing_to_do_with_one_another():
    """Nine chances to pass a test at 5 % would be 37 %: going on after a failure must not pay."""
    risk, n, draws = 0.1, 60, 2000
    losses = np.random.default_rng(0).random((draws, n, 9)) < risk + 1e-4
    violations = sum(controlling_risk(drawn, risk, 0.95) is not None for drawn in losses)
    assert violations / draws <= 0.06


def test_shares_of_games_need_few_of_them():
    rng = np.random.default_rng(0)
    losses = np.stack([rng.beta(1, 9, 400), rng.beta(1, 99, 400)], axis=1)
    assert controlling_risk(losses, 0.05, 0.95) == 1
    assert controlling_risk(losses, 0.2, 0.95) == 0
    assert controlling_risk(losses, 0.001, 0.95) is None
    shares = rng.beta(16, 984, (100, 1))  # mean 0.016, standard deviation 0.004
    assert controlling_risk(shares, 0.05, 0.95) == 0


def test_what_it_takes_to_show_anything():
    for risk in (0.1, 0.05, 0.01):
        n = fewest_units(risk, 0.95)
        assert betting(np.zeros(n), risk, 0.95) <= 0.05 < betting(np.zeros(n - 1), risk, 0.95)
        assert controlling_risk(np.zeros((n - 1, 1)), risk, 0.95) is None
        assert controlling_risk(np.zeros((n, 1)), risk, 0.95) == 0


@pytest.mark.parametrize("losses", [np.zeros((0, 2)), np.full((500, 2), np.nan)])
def test_no_data_shows_nothing_to_be_safe(losses):
    assert controlling_risk(losses, 0.05, 0.95) is None
