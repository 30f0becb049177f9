from __future__ import annotations

import pytest
import torch

from ztw_rl.core.cuda_graph import WARMUP_CALLS, replayable

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
