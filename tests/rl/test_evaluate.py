"""Tables of an evaluation: which rows, and what they say."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from ztw_rl.core.backends.eager import eager
from ztw_rl.core.choice import Forced, Patience, Threshold
from ztw_rl.core.statistics import Summary, summarize
from ztw_rl.rl.evaluate import RowResult, evaluate, n_games, table
from ztw_rl.rl.rows import Full, RandomExits, Row

CPU = torch.device("cpu")
N_EPISODES, SEED = 4, 10


@pytest.fixture
def model(make_model):
    return make_model(n_ics=2, pixels=True)


def test_the_whole_table(patch_games, model):
    games, ended = patch_games(9, length=lambda seed: 41), []
    results = evaluate(
        eager(model),
        [games],
        [Threshold(0.5), Threshold(0.8)],
        n_episodes=N_EPISODES,
        seed=SEED,
        action_mode="greedy",
        device=CPU,
        on_game=ended.append,
    )
    assert [(r.row.rule, r.row.threshold) for r in results] == [
        ("confidence", 0.5),
        ("confidence", 0.8),
        ("random", 0.5),
        ("random", 0.8),
        ("forced", 0.0),
        ("forced", 1.0),
        ("forced", 2.0),
        ("backbone", None),
    ]
    assert [r.row.who.shares for r in results[2:4]] == [r.exit_shares for r in results[:2]]
    assert results[0].exit_shares != results[1].exit_shares
    assert len(ended) == n_games(2, 0, 3, N_EPISODES) == 8 * N_EPISODES


def test_the_patience_table(patch_games, model):
    settings = {"n_episodes": 1, "seed": SEED, "action_mode": "greedy", "device": CPU}
    rules = [Patience(1), Patience(2)]
    results = evaluate(eager(model), [patch_games(9)], rules, **settings)
    assert [r.row.rule for r in results[:2]] == ["patience", "patience"]
    assert results[0].exit_shares == (1, 0, 0)


def result(row, returns, shares):
    """Of games with 4, 8, … decisions each, which differ in length but not in their exits."""
    exits = tuple(tuple(int(4 * k * share) for share in shares) for k in range(1, len(returns) + 1))
    return RowResult(row, returns, exits)


def test_what_a_game_costs():
    # Three decisions: one at exit 0, two at the end; then four at exit 1.
    found = RowResult(Row(Threshold(0.5)), (1.0, 2.0), ((1, 0, 2), (0, 4, 0)))
    assert found.n_decisions == 7
    assert found.exit_shares == pytest.approx((1 / 7, 4 / 7, 2 / 7))
    assert found.costs({"confidence": (0.4, 0.6, 1.0)}) == pytest.approx((0.8, 0.6))
    alone = RowResult(Row(Full()), (1.0, 2.0), ((0, 0, 2), (0, 0, 3)))
    assert alone.costs({"confidence": (0.4, 0.6, 1.2)}) == (1.0, 1.0)


def test_the_tables_columns_and_mixtures():
    control = RandomExits((0.5, 0.25, 0.25), Threshold(0.5))
    results = [
        result(Row(Threshold(0.5)), (1.0, 2.0, 3.0, 6.0), (0.5, 0.25, 0.25)),
        result(Row(control), (0.0, 0.0, 0.0, 0.0), (0.25, 0.25, 0.5)),
        result(Row(Forced(2)), (1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 1.0)),
        result(Row(Full()), (4.0, 4.0, 4.0, 4.0), (0.0, 0.0, 1.0)),
    ]
    found = table(results, {"confidence": (0.4, 0.6, 1.2)}, {"confidence": (0.8, 1.0, 1.6)})
    assert list(found.columns) == [
        "rule",
        "threshold",
        "episodes",
        "return_mean",
        "return_std",
        "return_iqm",
        "return_ci_low",
        "return_ci_high",
        "relative_macs",
        "relative_time",
        "exit_share_0",
        "exit_share_1",
        "exit_share_2",
    ]
    assert found["rule"].tolist() == ["confidence", "random", "forced", "backbone"]
    assert found["threshold"].tolist()[:3] == [0.5, 0.5, 2.0]
    assert found["threshold"].isna().tolist() == [False, False, False, True]
    assert found["episodes"].tolist() == [4, 4, 4, 4]
    # 0.5·0.4 + 0.25·0.6 + 0.25·1.2 and so on; the backbone runs no IC, so it costs 1.
    assert found["relative_macs"].tolist() == pytest.approx([0.65, 0.85, 1.2, 1.0])
    assert found["relative_time"].tolist() == pytest.approx([1.05, 1.25, 1.6, 1.0])
    assert found["return_mean"].tolist() == [3.0, 0.0, 1.0, 4.0]
    assert found["return_iqm"].tolist() == [2.5, 0.0, 1.0, 4.0]
    summary = summarize((1.0, 2.0, 3.0, 6.0))
    for field in fields(Summary):
        assert found[f"return_{field.name}"][0] == getattr(summary, field.name)
