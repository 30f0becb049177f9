from __future__ import annotations

import numpy as np
import pytest

from ztw_rl.core.choice import Costs, Keep, Threshold, Trial, by_halves, expected
from ztw_rl.rl.report.levels import CrossFit, Level, PairedScores


def same_in_all(costs, n_games, n):
    """(G, T, n) costs that depend on the setting alone."""
    return Costs(np.tile(np.array(costs)[:, None], (n_games, 1, n)), np.ones((1, 1, n)))


def paired(scores, costs, full, random=0.0):
    """Of one game."""
    return PairedScores(
        np.array([scores], float),
        same_in_all(costs, 1, len(full)),
        np.array([full], float),
        np.array([random]),
    )


def test_one_game_is_chosen_as_by_mean_scores():
    rng = np.random.default_rng(0)
    scores, full = rng.normal(15, 3, (4, 20)), rng.normal(18, 2, 20)
    scores[1] = scores[0]
    costs = np.array([0.4, 0.4, 0.8, 1.02])
    each = Costs(np.tile(costs[:, None], 20), np.ones((4, 20)))
    points = tuple(map(Threshold, (0.1, 0.2, 0.3, 0.4)))
    trial = Trial(points, scores, each, full, -20, "games")
    for keep in (0.99, 0.9, 0.5):
        found = paired(scores, costs, full, -20).level(keep)
        wanted = expected(Keep(keep), trial)
        chosen = tuple(
            position
            for position, _ in by_halves(
                lambda units, keep=keep: trial.position(Keep(keep), units), 20
            )
        )
        assert found.selection.chosen == chosen
        assert found.selection.cost == pytest.approx(wanted.cost)
        assert found.selection.kept == pytest.approx(wanted.kept)
        assert found.low <= found.selection.kept <= found.high


def test_without_spread_the_interval_has_no_width():
    found = paired([[8, 8, 8, 8]], [0.5], [10, 10, 10, 10]).level(0.7)
    assert (found.selection.chosen, found.selection.cost) == ((0, 0), 0.5)
    assert (found.low, found.high) == (0.8, 0.8)


def test_the_full_model_itself_is_sure():
    found = paired([[1, 2, 3, 4]], [0.5], [10, 12, 10, 12]).level(0.95)
    assert found.selection == CrossFit((None, None), 1.0, 1.0)
    assert (found.low, found.high) == (1.0, 1.0)
    assert not found.unclear((0.99, 0.88))


def test_agent_and_full_model_are_resampled_together():
    # The agent always gets nine tenths, however the games went.
    full = np.array([1.0, 50, 3, 70, 9, 20])
    found = paired([0.9 * full], [0.5], full).level(0.8)
    assert found.low == pytest.approx(0.9)
    assert found.high == pytest.approx(0.9)


def test_over_games_by_hand():
    # Two games on scales of 10 and 1000; normalised, the setting gets 1, 1, 1, 1 in the first and
    # 0, 0.5, 1, 1 in the second; the full model gets 1 everywhere.
    scores = np.array([[[10.0, 10, 10, 10]], [[0.0, 500, 1000, 1000]]])
    full = np.array([[10.0] * 4, [1000.0] * 4])
    both = PairedScores(scores, same_in_all([0.5], 2, 4), full, np.zeros(2))
    everything = np.tile(np.arange(4), (1, 2, 1))
    # Sorted: 0, ½, 1, 1, 1, 1, 1, 1, whose middle half is all ones.
    assert both.shares(0, everything)[0] == 1.0
    # Of the even seeds: 0, 1, 1, 1; the middle half is ones. Of the odd ones: ½, 1, 1, 1.
    assert both.level(0.99).selection == CrossFit((0, 0), 0.5, 1.0)


def test_over_games_random_play_is_the_floor():
    scores = np.array([[[-20.0, -20]], [[100.0, 100]]])
    both = PairedScores(
        scores,
        same_in_all([0.5], 2, 2),
        np.array([[20.0, 20], [200.0, 200]]),
        np.array([-20, 0.0]),
    )
    # Shares 0 and ½ of two episodes each: the middle half holds one of each.
    assert both.shares(0, np.tile([0, 1], (1, 2, 1)))[0] == 0.25


def test_over_games_costs_are_averaged_on_the_reported_seeds():
    scores, full = np.full((2, 1, 4), 10.0), np.full((2, 4), 10.0)
    # The first game's even seeds cost 0.2 and its odd ones 0.4; the second game's 0.6 and 0.8.
    costs = Costs(np.array([[[0.2, 0.4, 0.2, 0.4]], [[0.6, 0.8, 0.6, 0.8]]]), np.ones((2, 1, 4)))
    found = PairedScores(scores, costs, full, np.zeros(2)).level(0.9).selection
    assert found.cost == pytest.approx(((0.4 + 0.8) / 2 + (0.2 + 0.6) / 2) / 2)


def test_another_cost_is_told_of_the_choices_on_the_reported_seeds():
    # The even seeds choose the cheap setting, for which the odd ones want the full model.
    scores = [[[9.0, 5, 9, 5], [5.0, 5, 5, 5]]]
    full = np.array([[10.0] * 4])
    one = PairedScores(np.array(scores), same_in_all([0.4, 0.6], 1, 4), full, np.zeros(1))
    selection = one.level(0.9).selection
    assert selection.chosen == (0, None)
    # Reported on the odd seeds, whose decisions take 0.7 and, twice as many of them, 1.0.
    times = Costs(np.array([[[0.1, 0.7, 0.1, 1.0], [0.2] * 4]]), np.array([[[1.0, 1, 1, 2]]]))
    assert one.cost_in(times, selection) == pytest.approx(((0.7 + 2 * 1.0) / 3 + 1.0) / 2)


def test_levels_that_the_interval_reaches_are_unclear():
    level = Level(0.95, CrossFit((0, 0), 0.5, 0.94), low=0.9, high=0.985)
    assert not level.unclear((0.99, 0.95, 0.88))
    assert Level(0.95, level.selection, low=0.9, high=0.99).unclear((0.99, 0.95, 0.88))
    assert Level(0.95, level.selection, low=0.87, high=0.96).unclear((0.99, 0.95, 0.88))


def test_an_interval_without_bounds_is_unclear():
    # In a resample of the zeros alone the full model is no better than random play.
    level = paired([[0, 1] * 5], [0.5], [0, 2, 0, 2, 0, 0, 4, 0, 2, 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        assert np.isnan(level.level(0.1).high)
        assert level.level(0.1).unclear((0.99, 0.95, 0.88))


@pytest.mark.parametrize(
    ("full", "message"), [([5.0], "two units"), ([1.0, -3.0], "no better than random")]
)
def test_what_cannot_be_judged(full, message):
    with pytest.raises(ValueError, match=message):
        paired([[0.0] * len(full)], [0.4], full)


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(0)
    found = paired(rng.normal(9, 1, (2, 30)), [0.4, 0.8], rng.normal(10, 1, 30))
    assert found.level(0.8) == found.level(0.8)
    assert found.level(0.8).low != found.level(0.8, seed=1).low
