from __future__ import annotations

import contextlib
import math

import pytest
import torch

from ztw_rl.core import timing
from ztw_rl.core.backends.eager import eager
from ztw_rl.core.timing import (
    ExitTimes,
    forced_thresholds,
    interleaved_seconds,
    threads,
    time_exits,
)


def test_turns_are_interleaved_and_neither_warm_up_nor_first_calls_count(monkeypatch):
    monkeypatch.setattr(timing, "CALLS_PER_TURN", 2)
    clock, called = [0.0], []
    # Warm-up, then turns of one call that does not count and two that do, the last one shorter.
    seconds = {"a": iter([90, 90, 1, 2, 90, 3]), "b": iter([90, 90, 10, 20, 90, 30])}

    def work(name):
        called.append(name)
        clock[0] += next(seconds[name])

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
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


def test_forced_thresholds_let_go_at_one_exit_only():
    assert forced_thresholds(1, 3) == (math.inf, -math.inf)
    assert forced_thresholds(2, 3) == (math.inf, math.inf)


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
