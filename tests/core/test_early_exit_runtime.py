from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from ztw_rl.core.backends.compiled import require_compiler
from ztw_rl.core.backends.staged import eager
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import Runtime, make_backend
from ztw_rl.errors import UserError


@pytest.fixture
def model() -> EarlyExitModel:
    """A backbone without any IC."""
    return EarlyExitModel([nn.Flatten()], nn.Linear(4, 3), ics=[], attach=[]).eval()


def test_predicts(model):
    x = torch.randn(5, 2, 2)
    prediction = Runtime(eager(model), x[:1], 0.5).predict(x)
    assert prediction.exits.tolist() == [0] * 5
    assert prediction.labels.tolist() == model.backbone(x).argmax(dim=-1).tolist()


@pytest.mark.parametrize(
    "x", [torch.zeros(1, 2, 3), torch.zeros(1, 2, 2, dtype=torch.uint8), torch.zeros(2, 2)]
)
def test_bad_input(model, x):
    runtime = Runtime(eager(model), torch.zeros(1, 2, 2), 0.5)
    with pytest.raises(UserError, match=r"the model takes torch.float32 \(B, 2, 2\)"):
        runtime.predict(x)


def test_bad_choices(model, monkeypatch):
    x = torch.zeros(1, 2, 2)
    with pytest.raises(UserError, match="unknown backend 'jit'; choose from eager, compiled, onnx"):
        make_backend("jit", model, x)
    with pytest.raises(UserError, match="0 thresholds are needed, not 2"):
        Runtime(eager(model), x, [0.5, 0.5])
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"no C\+\+ compiler .*; use another"):
        require_compiler("use another")


@pytest.mark.parametrize(
    "threshold",
    [0.3, np.float32(0.3), np.array(0.3), np.array([0.3]), [np.float32(0.3)], torch.tensor(0.3)],
    ids=["float", "float32", "0-d", "1-d", "list", "tensor"],
)
def test_thresholds_as_arrays(make_model, threshold):
    runtime = Runtime(eager(make_model(n_ics=1)), torch.zeros(1, 4, 6, 6), threshold)
    assert runtime.thresholds == (np.float32(0.3).item(),)


def test_the_compiler_is_the_one_that_pytorch_takes(monkeypatch):
    """The program named by CXX and no other; PyTorch looks for 'ccache g++' as it stands."""
    monkeypatch.setattr("shutil.which", lambda name: name if name in ("g++", "clang++") else None)
    for name in ("g++", "clang++"):
        monkeypatch.setenv("CXX", name)
        require_compiler("use another")
    for name in ("ccache g++", "icpx", ""):
        monkeypatch.setenv("CXX", name)
        with pytest.raises(UserError, match=rf"there is no C\+\+ compiler '{re.escape(name)}'"):
            require_compiler("use another")
