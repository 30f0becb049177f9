from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
import torch

from ztw_rl.core.device import exact_device, resolve_device, tf32_convolutions


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
