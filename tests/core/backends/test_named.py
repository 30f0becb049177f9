from __future__ import annotations

import pytest
import torch

from ztw_rl.core.backends.named import make_backend
from ztw_rl.errors import UserError


def test_by_name(make_model):
    model, x = make_model(3), torch.randn(4, 3, 9, 9)
    backend = make_backend("eager", model, x[:1])
    assert backend.n_exits == 3
    assert torch.equal(backend.backbone(x), model.backbone(x))


def test_an_unknown_name(make_model):
    with pytest.raises(
        UserError, match="unknown backend 'jit'; choose from eager, compiled, onnx, litert"
    ):
        make_backend("jit", make_model(2), torch.zeros(1, 3, 9, 9))
