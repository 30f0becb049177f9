from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ztw_rl.core.backends.eager import eager
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import Runtime
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


def test_too_many_thresholds(model):
    with pytest.raises(UserError, match="0 thresholds are needed, not 2"):
        Runtime(eager(model), torch.zeros(1, 2, 2), [0.5, 0.5])


@pytest.mark.parametrize(
    "threshold",
    [0.3, np.float32(0.3), np.array(0.3), np.array([0.3]), [np.float32(0.3)], torch.tensor(0.3)],
    ids=["float", "float32", "0-d", "1-d", "list", "tensor"],
)
def test_thresholds_as_arrays(make_model, threshold):
    runtime = Runtime(eager(make_model(n_ics=1)), torch.zeros(1, 4, 6, 6), threshold)
    assert runtime.thresholds == (np.float32(0.3).item(),)
