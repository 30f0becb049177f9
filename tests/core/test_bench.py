from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ztw_rl.core.backends.eager import eager
from ztw_rl.core.bench import Latency, bench, break_even
from ztw_rl.core.model import EarlyExitModel


def latency(case, relative_time):
    return Latency("b", 1, 1, case, 1.0, 1.0, 1.0, relative_time, 1.0)


def test_break_even_by_hand():
    # 20 % more without an exit, 60 % less at exit 0: a quarter must leave there.
    rows = [latency("full", 1), latency("exit_0", 0.4), latency("no_exit", 1.2)]
    assert break_even(rows) == pytest.approx(0.25)
    assert break_even([latency("exit_0", 0.4), latency("no_exit", 0.9)]) == 0
    assert break_even([latency("exit_0", 1.3), latency("no_exit", 1.2)]) == math.inf
    assert math.isnan(break_even([latency("full", 1)]))


def test_every_case_is_timed(make_model):
    model = make_model(n_ics=2)
    inputs = torch.randn(8, 4, 6, 6)
    macs = (0.3, 0.7, 1.1)
    settings = {"n_threads": 1, "n_rounds": 7}
    rows = bench(eager(model), inputs, (0.5, 0.5), macs, batch_size=4, **settings)
    assert [row.case for row in rows] == ["full", "exit_0", "exit_1", "no_exit", "mix"]
    assert [row.relative_macs for row in rows[:4]] == [1.0, *macs]
    assert all(0 < row.p50_us <= row.p90_us <= row.p99_us for row in rows)
    assert rows[-1].relative_time == rows[-1].p50_us / rows[0].p50_us
    exits = eager(model).predict(inputs, (0.5, 0.5)).exits
    shares = [(exits == m).mean() for m in range(3)]
    assert rows[-1].relative_macs == pytest.approx(
        sum(s * m for s, m in zip(shares, macs, strict=True))
    )
    one = bench(eager(model), inputs, (0.5, 0.5), macs, batch_size=1, **settings)
    times = [row.relative_time for row in one[1:4]]
    mean = sum(s * t for s, t in zip(shares, times, strict=True))
    assert one[-1].relative_time == pytest.approx(mean)


def test_a_batch_larger_than_the_inputs_and_no_ics():
    model = EarlyExitModel([nn.Flatten()], nn.Linear(4, 3), ics=[], attach=[]).eval()
    rows = bench(
        eager(model), torch.randn(3, 2, 2), (), (1.0,), batch_size=8, n_threads=1, n_rounds=2
    )
    assert [row.case for row in rows] == ["full", "no_exit", "mix"]
