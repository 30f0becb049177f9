from __future__ import annotations

import contextlib

import pytest
import torch

from ztw_rl.core import timing
from ztw_rl.core.timing import ExitTimes, interleaved_medians, single_thread, time_exits


def test_calls_are_interleaved_and_the_warm_up_does_not_count(monkeypatch):
    clock, called = [0.0], []
    seconds = {"a": iter([50, 50, 1, 9, 2]), "b": iter([50, 50, 20, 10, 90])}

    def work(name):
        called.append(name)
        clock[0] += next(seconds[name])

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    medians = interleaved_medians([lambda: work("a"), lambda: work("b")], n_rounds=3, n_warmup=2)
    assert medians == [2, 20]
    assert called == ["a", "b"] * 5


def test_relative_times():
    assert ExitTimes("any", (1.0, 3.0), 2.0).relative == (0.5, 1.5)


def test_one_thread_only_meanwhile():
    torch.set_num_threads(2)
    with contextlib.suppress(KeyboardInterrupt), single_thread():
        meanwhile = torch.get_num_threads()
        raise KeyboardInterrupt
    assert (meanwhile, torch.get_num_threads()) == (1, 2)


def test_each_exit_is_timed_by_leaving_there(make_model, monkeypatch):
    model = make_model(n_ics=2)
    left = []
    real = timing.decide

    def spy(*args):
        decision = real(*args)
        left.append(decision.left_at.item())
        return decision

    monkeypatch.setattr(timing, "decide", spy)
    times = time_exits(model, torch.randn(1, 4, 6, 6), n_rounds=2, n_warmup=1)
    assert left == [0, 1, 2] * 3
    assert len(times.seconds) == 3
    assert min(*times.seconds, times.backbone_seconds) > 0
    assert times.backend


def test_the_backbone_is_timed_without_ics(make_model, monkeypatch):
    model = make_model(n_ics=2)
    monkeypatch.setattr(timing, "decide", lambda *args: None)
    for ic in model.ics:
        ic.register_forward_hook(lambda *args: pytest.fail("an IC was run"))
    time_exits(model, torch.randn(1, 4, 6, 6), n_rounds=1, n_warmup=0)
