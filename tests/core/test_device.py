from __future__ import annotations

import itertools
import os
from contextlib import suppress

import pytest
import torch

from ztw_rl.core.bench import threads
from ztw_rl.core.device import (
    WARMUP_CALLS,
    exact_device,
    n_cores,
    n_network_threads,
    replayable,
    resolve_device,
    tf32_convolutions,
)


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_float32_is_float32_on_a_gpu(one_gpu, name):
    assert resolve_device(name).type == "cuda"
    assert torch.backends.cudnn.allow_tf32
    assert exact_device(name).type == "cuda"
    assert not torch.backends.cudnn.allow_tf32


def test_the_cpu_leaves_a_gpu_as_it_is(one_gpu):
    assert exact_device("cpu").type == "cpu"
    assert torch.backends.cudnn.allow_tf32


def test_tf32_while_the_context_lasts(monkeypatch):
    for before, asked in itertools.product((True, False), repeat=2):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
        with suppress(ZeroDivisionError), tf32_convolutions(asked, torch.device("cuda")):
            assert torch.backends.cudnn.allow_tf32 is asked
            raise ZeroDivisionError
        assert torch.backends.cudnn.allow_tf32 is before
        with tf32_convolutions(asked, torch.device("cpu")):
            assert torch.backends.cudnn.allow_tf32 is before


@pytest.mark.parametrize(
    ("n_cores", "n_threads", "wanted"), [(64, 64, 4), (6, 6, 3), (1, 8, 1), (64, 1, 1), (3, 3, 1)]
)
def test_threads_beside_emulators(monkeypatch, n_cores, n_threads, wanted):
    monkeypatch.setattr("ztw_rl.core.device.n_cores", lambda: n_cores)
    with threads(n_threads):
        assert n_network_threads() == wanted


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no processes")
def test_cores_are_those_that_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert n_cores() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert n_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


CALLS = WARMUP_CALLS + 4
"""Some plain, one recorded, the others replayed."""


def test_on_the_cpu_a_function_stays_as_it_is():
    assert replayable(torch.sin, torch.device("cpu")) is torch.sin


@pytest.mark.cuda
def test_arguments_are_read_anew_and_results_are_kept():
    seen = 0

    def double(x):
        nonlocal seen
        seen += 1
        return 2 * x

    fast = replayable(double, torch.device("cuda"))
    results = [fast(torch.full((3,), float(i), device="cuda")) for i in range(CALLS)]
    assert torch.stack(results)[:, 0].tolist() == [2.0 * i for i in range(CALLS)]
    assert seen == WARMUP_CALLS + 1


@pytest.mark.cuda
def test_every_shape_has_its_own_graph():
    fast = replayable(lambda x: x.sum(), torch.device("cuda"))
    for n in (3, 5) * CALLS:
        assert fast(torch.ones(n, device="cuda")).item() == n


@pytest.mark.cuda
def test_every_call_works_once():
    """The recording changes nothing by itself, and is not left out either."""
    total = torch.zeros((), device="cuda")
    fast = replayable(lambda x: total.add_(x), torch.device("cuda"))
    for i in range(CALLS):
        assert fast(torch.ones((), device="cuda")).item() == i + 1


@pytest.mark.cuda
def test_random_numbers_go_on():
    device = torch.device("cuda")
    draw = torch.rand_like
    fast = replayable(draw, device)
    x = torch.empty(4, device=device)
    torch.cuda.manual_seed(0)
    plain = [draw(x) for _ in range(CALLS)]
    torch.cuda.manual_seed(0)
    replayed = [fast(x) for _ in range(CALLS)]
    torch.testing.assert_close(torch.stack(replayed), torch.stack(plain), rtol=0, atol=0)
