from __future__ import annotations

import pytest
import torch

from ztw_rl.core.device import exact_device, resolve_device


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
