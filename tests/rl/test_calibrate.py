from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from ztw_rl.core.backends.eager import eager
from ztw_rl.errors import UserError
from ztw_rl.rl import calibrate as module
from ztw_rl.rl.calibrate import bound_for, calibrate, check_costs
from ztw_rl.rl.evaluate import play
from ztw_rl.rl.rows import RULES, Row

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
    points = [point for rule in wanted for point in found[rule]]
    assert [point.aim for point in points] == [0.3, 0.6, 0.5]
    rows = [Row(RULES[point.rule](point.threshold)) for point in points]
    results = play(eager(model), [patch_games(8)], rows, n_episodes=100, **how)
    costs = [float(np.dot(result.exit_shares, COSTS)) for result in results]
    assert costs == pytest.approx([0.3, 0.6, 0.5], abs=0.03)


def test_a_cost_that_is_never_met_is_told(make_model, patch_games, monkeypatch):
    """All that exits say is equal, so that no threshold lies between leaving at once and never."""
    monkeypatch.setattr(module, "N_GAMES", 2)
    model = make_model(n_ics=2, pixels=True)
    with torch.no_grad():
        for ic in model.ics:
            ic.linear.weight.zero_()
            ic.linear.bias.zero_()
        model.ensemble.log_biases.zero_()
    (point,) = calibrate(
        eager(model),
        [patch_games(2)],
        {"confidence": (0.6,)},
        {"confidence": COSTS},
        seed=0,
        action_mode="greedy",
        device=torch.device("cpu"),
        judges={},
    )["confidence"]
    assert point.is_off
    assert re.match(r"confidence was to cost 0.6 and cost [01].* in the 8 games in", str(point))


def test_weights_that_are_broken():
    with pytest.raises(UserError, match="no exit says a number"):
        bound_for(np.full((3, 2), np.nan, np.float32), COSTS, 0.5)
