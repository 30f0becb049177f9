from __future__ import annotations

import pytest
import torch

from ztw_rl.errors import UserError
from ztw_rl.supervised.engine import SeveralProcesses


def gpus(monkeypatch, n: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)


@pytest.mark.parametrize(
    ("n_gpus", "device", "message"),
    [
        (0, "cuda", "device 'cuda' is not available here; use the device cpu"),
        (2, "cuda:1", "--device cuda:1 is one GPU, but each process takes its own"),
        # This process is the fourth on its machine.
        (2, "cuda", "device 'cuda:3' is not available here"),
        (2, "auto", "device 'cuda:3' is not available here"),
        (0, "gpu", "unknown device 'gpu'"),
    ],
)
def test_several_processes_take_the_device_that_is_asked_for_or_none(
    monkeypatch, n_gpus, device, message
):
    gpus(monkeypatch, n_gpus)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(UserError, match=message):
        SeveralProcesses(device)
