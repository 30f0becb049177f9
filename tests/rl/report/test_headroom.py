from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ztw_rl.core.choice import Forced, Gate, Threshold
from ztw_rl.rl.agent import Identity
from ztw_rl.rl.report.headroom import lead, leads_by_game, lines, of_table, recovered
from ztw_rl.rl.rows import Full, RandomExits
from ztw_rl.rl.tables import StoredRow, StoredTable


def row(who, returns, macs=0.5):
    n = len(returns)
    return StoredRow(who, tuple(returns), (10,) * n, (macs,) * n, (macs,) * n)


def table(gate, random, confidence, full, name="a", macs=0.51):
    rows = (
        row(Gate(0.1), gate),
        row(RandomExits((0.5, 0.5), Gate(0.1)), random),
        row(Threshold(0.9), confidence, macs),
        row(Forced(0), random),
        row(Full(), full, 1.0),
    )
    return StoredTable(
        game=name,
        rule="gate",
        seed=0,
        action_mode="greedy",
        backend="x",
        method="ztw",
        identity=Identity("a", "b", "c"),
        costs=(0.5,),
        rows=rows,
        path=Path(name),
    )


FULL = [20.0, 10.0] * 10


def test_by_hand():
    # Random exits lose 4 of 10 points over random play's 5; the gate wins 3 back, confidence -1.
    found = of_table(
        table([18.0, 10.0] * 10, [14.0, 8.0] * 10, [13.0, 7.0] * 10, FULL), random_return=5.0
    )
    (one,) = found
    assert one.share == pytest.approx(0.4)
    gate, confidence = one.recovered(one.rule), one.recovered(one.beside)
    assert gate.center == pytest.approx(3 / 4)
    assert gate.low < 3 / 4 < gate.high < 1.0001
    assert confidence.center == pytest.approx(-1 / 4)
    assert lines(found) == [
        "at 0.5 of the MACs (realised 0.500 and 0.510) random exits lose 40.0% of the return over "
        "random play; of this loss the gate rule recovers 0.75 "
        f"({gate.low:.2f} to {gate.high:.2f}) and confidence -0.25 "
        f"({confidence.low:.2f} to {confidence.high:.2f})"
    ]


def test_little_headroom_is_said():
    found = of_table(table(FULL, [19.9, 10.0] * 10, FULL, FULL), random_return=5.0)
    assert lines(found) == [
        "at 0.5 of the MACs random exits lose 0.5% of the return over random play: no rule can "
        "win much"
    ]


def test_the_mean_over_games():
    equal = [12.0] * 20
    all_won = of_table(table(equal, [8.0] * 20, equal, equal, "a"), 0.0)[0]
    half_won = of_table(table([10.0] * 20, [8.0] * 20, equal, equal, "b"), 0.0)[0]
    found = recovered([all_won, half_won], [all_won.rule, half_won.rule])
    assert (found.center, found.low, found.high) == pytest.approx((0.75, 0.75, 0.75))


def test_costs_that_are_apart_are_said():
    near, far = (
        lines(of_table(table(FULL, [14.0, 8.0] * 10, FULL, FULL, macs=macs), 5.0))
        for macs in (0.49, 0.4899)
    )
    assert "apart" not in near[0]
    assert far[0].endswith("; costs are more than 0.01 apart")


def test_leads_over_confidence_are_corrected_for_the_number_of_games():
    rng = np.random.default_rng(0)
    found = []
    for name, shift in (("a", 1.0), ("b", 0.0)):
        noise = rng.normal(size=50)
        full = np.full(50, 10.0)
        found += of_table(
            table(full + noise + shift, full - 5.0, full, full, name), random_return=0.0
        )
    leads = leads_by_game(found)
    # Confidence wins all of the headroom of 5, and the gate 1 or 0 more, but for noise.
    assert leads["a"].center == pytest.approx(0.2, abs=0.06)
    assert leads["a"].low > 0 > leads["b"].low
    assert lead(found).center == pytest.approx(np.mean([each.center for each in leads.values()]))
    # The surer one at 97.5 %, the other at 95 %.
    alone = [lead([each]) for each in found]
    assert leads["a"].high - leads["a"].low > 1.08 * (alone[0].high - alone[0].low)
    assert leads["b"] == alone[1]


def test_nothing_is_corrected_less_once_a_lead_is_unsure():
    """Of two games, p = 0.03 and 0.04: neither is sure at 0.05, corrected for two."""
    rng = np.random.default_rng(3)
    found = []
    for name, z in (("a", 2.17), ("b", 2.05)):
        noise = rng.normal(size=400)
        noise = (noise - noise.mean()) / noise.std()
        full = np.full(400, 10.0)
        found += of_table(
            table(full + noise + z / 20, full - 5.0, full, full, name), random_return=0.0
        )
    assert all(lead([each]).low > 0 for each in found)
    assert all(own.low < 0 for own in leads_by_game(found).values())
