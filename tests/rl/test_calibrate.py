from __future__ import annotations

import numpy as np
import pytest
import torch

from ztw_rl.core.backends.eager import eager
from ztw_rl.core.choice import RULES
from ztw_rl.errors import UserError
from ztw_rl.rl import calibrate as module
from ztw_rl.rl.calibrate import bound_for, calibrate, check_costs, corrected, to_correct
from ztw_rl.rl.evaluate import play
from ztw_rl.rl.rows import Row

COSTS = (0.2, 0.5, 1.1)
SIGNALS = np.array([[0.1, 0.9], [0.4, 0.2], [0.6, 0.1], [0.8, 0.8]], np.float32)


@pytest.mark.parametrize(
    ("aim", "exits"),
    [
        # Below all signals everybody leaves at once.
        (0.2, [0, 0, 0, 0]),
        (0.3, [1, 0, 0, 0]),
        (0.5, [1, 2, 0, 0]),
        (0.99, [1, 2, 2, 2]),
        (1.1, [2, 2, 2, 2]),
    ],
)
def test_the_highest_bound_that_is_cheap_enough(aim, exits):
    bound = bound_for(SIGNALS, COSTS, aim)
    leaves = np.concatenate([bound < SIGNALS, np.ones((4, 1), bool)], axis=1)
    assert leaves.argmax(axis=1).tolist() == exits


def test_broken_signals_leave_nowhere():
    broken = np.concatenate([SIGNALS, np.full((4, 2), np.nan, np.float32)])
    # Half of the samples cost 1.1 whatever the bound.
    assert bound_for(broken, COSTS, 0.65) == bound_for(SIGNALS, COSTS, 0.2)


@pytest.mark.parametrize("aim", [0.1, 0.2, 1.1, 3.0])
def test_costs_that_no_threshold_realises(aim):
    with pytest.raises(
        UserError,
        match=r"judged by gate, a decision costs 0\.200 at the first exit and 1\.100 at the end",
    ):
        check_costs([0.5, aim], COSTS, "gate")


@pytest.mark.parametrize("mode", ["greedy", "sample"])
def test_other_games_at_the_thresholds_found_cost_what_was_asked(
    make_model, patch_games, monkeypatch, mode
):
    monkeypatch.setattr(module, "N_GAMES", 40)
    model = make_model(n_ics=2, pixels=True)
    how = {
        "seed": 3,
        "action_mode": mode,
        "device": torch.device("cpu"),
        "judges": {"margin": eager(model.judged("margin"))},
    }
    relative = dict.fromkeys(("confidence", "margin"), COSTS)
    wanted = {"confidence": (0.3, 0.6), "margin": (0.5,)}
    rounds = []
    found = calibrate(
        eager(model), [patch_games(8)], wanted, relative, on_round=rounds.append, **how
    )
    assert rounds == list(range(module.N_ROUNDS + 1))
    rows = [Row(RULES[rule](point.threshold)) for rule in wanted for point in found[rule]]
    results = play(eager(model), [patch_games(8)], rows, n_episodes=100, **how)
    costs = [float(np.dot(result.exit_shares, COSTS)) for result in results]
    assert costs == pytest.approx([0.3, 0.6, 0.5], abs=0.03)


def test_the_slope_says_how_to_correct(make_model, patch_games):
    """One exit, so that a cost is the share of signals above the bound."""
    model = make_model(n_ics=2, pixels=True)
    how = {
        "seed": 3,
        "action_mode": "sample",
        "device": torch.device("cpu"),
        "judges": {},
    }
    relative = {"confidence": COSTS}
    (point, dearer) = calibrate(
        eager(model), [patch_games(8)], {"confidence": (0.5, 0.52)}, relative, **how
    )["confidence"]
    # More cost asks for a higher confidence.
    assert point.slope > 0
    moved = corrected(point.threshold, point.slope, 0.52, 0.5)
    assert moved == pytest.approx(dearer.threshold, abs=0.02)


@pytest.mark.parametrize(
    ("realised", "again"),
    [
        ((0.5, 0.505), (False, False)),
        ((0.489, 0.5), (True, False)),
        ((0.48, 0.52), (True, True)),
        # Both near, but not near one another.
        ((0.492, 0.509), (False, True)),
        ((0.511,), (True,)),
    ],
)
def test_which_rows_are_played_again(realised, again):
    assert tuple(to_correct(0.5, realised)) == again


def test_a_correction_by_hand():
    # A cost of 0.03 too much; a regret of 2 more for each of cost less.
    assert corrected(0.1, -2.0, aim=0.6, realised=0.63) == pytest.approx(0.16)


def test_weights_that_are_broken():
    with pytest.raises(UserError, match="no exit says a number"):
        bound_for(np.full((3, 2), np.nan, np.float32), COSTS, 0.5)
