from __future__ import annotations

import numpy as np
import pytest

from ztw_rl.core.betting import betting
from ztw_rl.core.calibration import (
    by_means,
    controlling_risk,
    disagreement,
    fewest_units,
    hoeffding_bentkus,
    per_exit_thresholds,
)
from ztw_rl.errors import UserError


def test_p_values_against_hand_worked_numbers():
    # No loss in 100: Bentkus e·0.98^100 = 0.3605, Hoeffding 0.98^100 = 0.1326.
    p = hoeffding_bentkus(np.array([0.0, 0.02, 0.5]), 100, 0.02)
    np.testing.assert_allclose(p, [0.98**100, 1.0, 1.0], atol=1e-12)
    # 6 losses in 20: Hoeffding exp(−20·(0.3·ln 0.6 + 0.7·ln 1.4)) = 0.1929, and Bentkus, with
    # 60,460 of the 2^20 outcomes of 20 fair coins showing at most 6 heads, 0.1567.
    p = hoeffding_bentkus(np.array([0.3]), 20, 0.5)
    np.testing.assert_allclose(p, [np.e * 60460 / 2**20], rtol=1e-12)


def test_a_p_value_falls_with_the_risk():
    p = hoeffding_bentkus(np.linspace(0, 0.2, 50), 400, 0.1)
    assert (np.diff(p) >= -1e-12).all()


@pytest.mark.parametrize("slope", [0.0, 0.05])
def test_risk_is_controlled(slope):
    """1,000 draws with known risk: at most 5 % violations, 6.4 % with the draws' own noise."""
    thresholds = np.linspace(0.1, 0.9, 17)
    risk, n, draws = 0.05, 500, 1000
    # Risk falls with τ, through the target at 0.5 (or nowhere below it, the hardest case).
    true = 0.05 + 1e-4 + slope * (0.5 - thresholds)
    rng = np.random.default_rng(0)
    violations = 0
    for _ in range(draws):
        losses = rng.random((n, 1)) < true
        chosen = controlling_risk(thresholds.tolist(), losses, risk, 0.95)
        if chosen is not None:
            violations += true[thresholds == chosen].item() > risk
    assert violations / draws <= 0.064


def test_the_first_threshold_that_fails_ends_the_sequence():
    """By hand: of 100 samples τ = 0.9 has no loss, τ = 0.5 has 50, and τ = 0.1 none again."""
    losses = np.zeros((100, 3))
    losses[:50, 1] = 1
    assert controlling_risk((0.1, 0.5, 0.9), losses, 0.1, 0.95) == 0.9


def test_risk_is_controlled_where_thresholds_have_nothing_to_do_with_one_another():
    """Nine chances to pass a test at 5 % would be 37 %: going on after a failure must not pay."""
    thresholds = [k / 10 for k in range(1, 10)]
    risk, n, draws = 0.1, 60, 2000
    losses = np.random.default_rng(0).random((draws, n, 9)) < risk + 1e-4
    violations = sum(
        controlling_risk(thresholds, drawn, risk, 0.95) is not None for drawn in losses
    )
    assert violations / draws <= 0.06


def test_risk_of_episodes_uses_fractions():
    rng = np.random.default_rng(0)
    losses = np.stack([rng.beta(1, 9, 400), rng.beta(1, 99, 400)], axis=1)
    assert controlling_risk((0.3, 0.7), losses, 0.05, 0.95) == 0.7
    assert controlling_risk((0.3, 0.7), losses, 0.2, 0.95) == 0.3
    assert controlling_risk((0.3, 0.7), losses, 0.001, 0.95) is None


@pytest.mark.parametrize("name", ["risk", "confidence"])
def test_shares_out_of_range(name):
    settings = {"risk": 0.1, "confidence": 0.9, name: 1.0}
    with pytest.raises(UserError, match=f"--{name} must be between 0 and 1, not 1"):
        controlling_risk((0.5,), np.zeros((3, 1)), **settings)


def test_what_it_takes_to_show_anything():
    # 0.98^149 < 0.05 < 0.98^148
    assert fewest_units(0.02, 0.95) == 149
    for risk in (0.1, 0.05, 0.01):
        n = fewest_units(risk, 0.95, betting)
        enough, fewer = (betting(np.zeros((each, 1)), risk, 0.95)[0] for each in (n, n - 1))
        assert enough <= 0.05 < fewer
    for n, shown in ((148, None), (149, 0.5)):
        assert controlling_risk((0.5,), np.zeros((n, 1)), 0.02, 0.95) == shown


def test_disagreement_with_the_full_model():
    confidences = np.array([[0.9, 0.6], [0.3, 0.6]])
    labels = np.array([[1, 0, 0], [2, 1, 0]])
    losses = disagreement(confidences, labels, np.array([0, 0]), (0.0, 0.5, 0.8, 1.0))
    assert losses.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]


def test_thresholds_per_exit_beat_a_common_one():
    # Exit 0 is right whenever it is surer than 0.5; exit 1 never is, however sure.
    rng = np.random.default_rng(0)
    confidences = rng.random((2000, 3))
    right = np.stack([confidences[:, 0] > 0.5, np.zeros(2000, bool), np.ones(2000, bool)], axis=1)
    candidates = (0.25, 0.5, 0.75, 1.0)
    chosen = per_exit_thresholds(confidences, right, (0.2, 0.5, 1.0), candidates, budget=0.7)
    assert chosen == (0.5, 1.0)


@pytest.mark.parametrize("p_values", [by_means, betting])
@pytest.mark.parametrize("losses", [np.zeros((0, 2)), np.full((500, 2), np.nan)])
def test_no_data_shows_nothing_to_be_safe(losses, p_values):
    assert controlling_risk((0.3, 0.5), losses, 0.05, 0.95, p_values) is None
