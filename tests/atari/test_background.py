"""Which threads are made to wait, and which are left as they were."""

from __future__ import annotations

import os
import threading

import pytest

from ztw_rl.atari.background import background_threads

linux = pytest.mark.skipif(
    not hasattr(os, "SCHED_BATCH"), reason="only Linux has scheduling policies of threads"
)


def policy_of_a_new_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
    thread.start()
    thread.join()
    return found[0]


@linux
def test_threads_started_inside_wait_and_the_others_do_not():
    before = os.sched_getscheduler(0)
    if before != os.SCHED_OTHER:
        pytest.skip("the tests run under a scheduling policy of the user's own")
    with background_threads():
        assert policy_of_a_new_thread() == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == before
    assert policy_of_a_new_thread() == before


@linux
def test_an_error_inside_leaves_the_caller_as_it_was():
    before = os.sched_getscheduler(0)
    with pytest.raises(ZeroDivisionError), background_threads():
        raise ZeroDivisionError
    assert os.sched_getscheduler(0) == before


@linux
@pytest.mark.parametrize("name", ["sched_getscheduler", "sched_setscheduler"])
def test_where_policies_are_forbidden_nothing_changes(monkeypatch, name):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    before = os.sched_getscheduler(0)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        with background_threads():
            pass
    assert os.sched_getscheduler(0) == before


def test_elsewhere_nothing_changes(monkeypatch):
    monkeypatch.delattr(os, "SCHED_BATCH", raising=False)
    with background_threads():
        assert threading.active_count() >= 1
