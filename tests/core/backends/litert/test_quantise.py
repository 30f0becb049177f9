from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ztw_rl.core.backends.litert import agreement, backend, quantise
from ztw_rl.core.backends.litert.graph import Graph
from ztw_rl.core.backends.litert.quantise import with_int8_weights
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.errors import UserError


def linear(weights):
    graph = Graph()
    x = graph.input("x", (1, weights.shape[1]), "float32")
    bias = np.zeros(len(weights), np.float32)
    graph.add("FULLY_CONNECTED", [x], (1, len(weights)), {}, weights=weights, bias=bias)
    graph.operators[0].is_layer = True
    return graph


def test_weights_by_hand(monkeypatch):
    """254 of 127 is 2: 3.2 becomes 2 (1.6 rounded), -254 the least, and a row of zeros stays."""
    monkeypatch.setattr(quantise, "WIDE", 1)
    graph = linear(np.array([[254.0, 3.2, -254.0], [0.0, 0.0, 0.0]], np.float32))
    assert with_int8_weights(graph) == 1
    (step,) = graph.operators
    assert step.weights.tolist() == [[127, 2, -127], [0, 0, 0]]
    assert step.scales.tolist() == [2, 1]


def test_narrow_layers_stay_as_they_are():
    graph = linear(np.ones((4, 4), np.float32))
    assert with_int8_weights(graph) == 0
    assert graph.operators[0].scales is None


def test_a_network_without_wide_layers(make_model):
    with pytest.raises(UserError, match="no layer is wide enough for int8 weights to save time"):
        backend.one_file(make_model(2), torch.zeros(1, 3, 9, 9), "label", {}, "int8")


@pytest.mark.parametrize(("spread", "least"), [(1.0, 0.0), (1e4, 0.01)])
def test_the_share_of_changed_answers(make_model, monkeypatch, spread, least):
    """One weight far above the others of its row leaves these next to nothing."""
    monkeypatch.setattr(quantise, "WIDE", 1000)
    plain = make_model(2)
    torch.manual_seed(0)
    linear = nn.Linear(4 * 9 * 9, 5).requires_grad_(False)
    linear.weight[:, 0] *= spread
    head = nn.Sequential(nn.Flatten(), linear)
    model = EarlyExitModel(plain.blocks, head, plain.ics, plain.attach, plain.ensemble).eval()
    x = torch.randn(200, 3, 9, 9)
    changed = agreement.share_changed(model, x)
    assert least <= changed <= 1
    if spread == 1:
        assert changed <= 0.05
