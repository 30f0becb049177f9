"""Which threads are made to wait, and which are left as they were."""

from __future__ import annotations

import os
import threading

import pytest

from ztw_rl.rl.atari import batches
from ztw_rl.rl.atari.batches import in_background
from ztw_rl.rl.atari.config import AtariConfig

linux = pytest.mark.skipif(
    not hasattr(os, "SCHED_BATCH"), reason="only Linux has scheduling policies of threads"
)


def standing():
    """Policy and niceness of the calling thread."""
    return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)


def standing_of_a_new_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(standing()))
    thread.start()
    thread.join()
    return found[0]


@linux
@pytest.mark.parametrize("niceness", [0, 3])
def test_threads_started_inside_wait_and_the_others_do_not(niceness):
    before = standing()
    if before[0] != os.SCHED_OTHER:
        pytest.skip("the tests run under a scheduling policy of the user's own")
    wanted = (os.SCHED_BATCH, min(before[1] + niceness, 19))
    assert in_background(standing_of_a_new_thread, niceness) == wanted
    assert standing() == standing_of_a_new_thread() == before


@linux
def test_emulators_that_take_turns_step_back(monkeypatch):
    before = standing()
    if before[0] != os.SCHED_OTHER:
        pytest.skip("the tests run under a scheduling policy of the user's own")
    monkeypatch.setattr(batches, "make_emulators", lambda config, n: (n, standing()))
    behind = (os.SCHED_BATCH, min(before[1] + batches.NICENESS, 19))
    assert batches.NICENESS > 0
    assert batches.make_batches(AtariConfig(), 5) == [(2, behind), (3, behind)]


@linux
def test_an_error_inside_is_the_callers_and_leaves_it_as_it_was():
    before = standing()
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: 1 // 0)
    assert standing() == before


@linux
@pytest.mark.parametrize("name", ["sched_getscheduler", "sched_setscheduler", "setpriority"])
def test_what_is_forbidden_stays_as_it_is(monkeypatch, name):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    before = standing()
    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        assert in_background(lambda: "made", 3) == "made"
    assert standing() == before


def test_elsewhere_nothing_changes(monkeypatch):
    monkeypatch.delattr(os, "SCHED_BATCH", raising=False)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert in_background(lambda: os.getpriority(os.PRIO_PROCESS, 0), 3) == before
