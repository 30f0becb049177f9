from __future__ import annotations

import contextlib
import math
import time

import pytest
import torch
from torch import nn

from ztw_rl.core import bench as bench_module
from ztw_rl.core.backends.eager import eager
from ztw_rl.core.bench import (
    ExitTimes,
    Latency,
    bench,
    break_even,
    forced_bounds,
    interleaved_seconds,
    threads,
    time_exits,
)
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


def test_turns_are_interleaved_and_neither_warm_up_nor_first_calls_count(monkeypatch):
    monkeypatch.setattr(bench_module, "CALLS_PER_TURN", 2)
    clock, called = [0.0], []
    # Warm-up, then turns of one call that does not count and two that do, the last one shorter.
    seconds = {"a": iter([90, 90, 1, 2, 90, 3]), "b": iter([90, 90, 10, 20, 90, 30])}

    def work(name):
        called.append(name)
        clock[0] += next(seconds[name])

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    found = interleaved_seconds([lambda: work("a"), lambda: work("b")], n_rounds=3, n_warmup=1)
    assert found == [[1, 2, 3], [10, 20, 30]]
    assert "".join(called) == "ab" + "aaa" + "bbb" + "aa" + "bb"


def test_relative_times():
    assert ExitTimes("any", (1.0, 3.0), 2.0).relative == (0.5, 1.5)


def test_one_thread_only_meanwhile():
    torch.set_num_threads(2)
    with contextlib.suppress(KeyboardInterrupt), threads(1):
        meanwhile = torch.get_num_threads()
        raise KeyboardInterrupt
    assert (meanwhile, torch.get_num_threads()) == (1, 2)


def test_forced_bounds_let_go_at_one_exit_only():
    assert forced_bounds(1, 3) == (math.inf, -math.inf)
    assert forced_bounds(2, 3) == (math.inf, math.inf)


class Spy:
    """Notes what a backend is asked, and passes it on."""

    def __init__(self, backend):
        self._backend = backend
        self.name, self.n_exits = backend.name, backend.n_exits
        self.left = []

    def predict(self, x, thresholds):
        prediction = self._backend.predict(x, thresholds)
        self.left.append(prediction.exits.item())
        return prediction

    def backbone(self, x):
        return self._backend.backbone(x)


def test_each_exit_is_timed_by_leaving_there(make_model):
    spy = Spy(eager(make_model(n_ics=2)))
    times = time_exits(spy, torch.randn(1, 4, 6, 6), n_rounds=1, n_warmup=1)
    # Warm-up, then a call that does not count and one that does, exit by exit.
    assert spy.left == [0, 1, 2, 0, 0, 1, 1, 2, 2]
    assert len(times.seconds) == 3
    assert min(*times.seconds, times.backbone_seconds) > 0
    assert times.backend == "eager PyTorch"


def test_the_backbone_is_timed_without_ics(make_model):
    model = make_model(n_ics=2)
    for ic in model.ics:
        ic.register_forward_hook(lambda *args: pytest.fail("an IC was run"))
    spy = Spy(eager(model))
    spy.predict = lambda x, thresholds: None
    time_exits(spy, torch.randn(1, 4, 6, 6), n_rounds=1, n_warmup=0)
