from __future__ import annotations

import pytest
import torch

from ztw_rl.core.backends.litert.frozen import FrozenNetwork
from ztw_rl.core.model import METHODS
from ztw_rl.errors import UserError
from ztw_rl.rl import trunk
from ztw_rl.rl.networks.config import NetworkConfig
from ztw_rl.rl.networks.early_exit import early_exit_policy
from ztw_rl.rl.trunk import EagerTrunk, make_trunk

VECTORS = NetworkConfig(
    input_shape=(8,), trunk="mlp", widths=(), hidden=(32, 32), activation="tanh"
)


def made(network, exits):
    torch.manual_seed(0)
    model = early_exit_policy(6, network, exits, METHODS["ztw"]).eval().requires_grad_(False)
    shape = (5, *network.input_shape)
    if len(shape) == 2:
        return model, torch.randn(shape)
    return model, torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("network", "exits"),
    [
        (NetworkConfig(), ("conv1", "conv2")),
        (NetworkConfig(), ("input", "conv1", "conv3")),
        (NetworkConfig(), ("input",)),
        (NetworkConfig(input_shape=(1, 40, 44), trunk="impala", widths=(4, 8, 16)), ("stage1",)),
        (VECTORS, ("layer1",)),
        (VECTORS, ("input", "layer1")),
    ],
    ids=str,
)
def test_litert_reads_what_pytorch_reads(network, exits):
    model, x = made(network, exits)
    fast, plain = make_trunk("fastest", model, x), EagerTrunk(model)
    assert isinstance(fast, FrozenNetwork)
    for batch in (x, x[:1], x[:3]):
        found, wanted = fast.reads(batch), plain.reads(batch)
        assert len(found) == len(wanted) == len(exits)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            fast.logits(wanted[-1]), plain.logits(wanted[-1]), atol=1e-5, rtol=1e-5
        )


def test_maps_are_not_copied():
    model, x = made(NetworkConfig(), ("conv1", "conv2"))
    for read in make_trunk("fastest", model, x).reads(x):
        assert read.is_contiguous(memory_format=torch.channels_last)


def test_pytorch_where_litert_will_not_do(monkeypatch):
    model, x = made(NetworkConfig(), ("conv1",))
    assert isinstance(make_trunk("eager", model, x), EagerTrunk)
    with monkeypatch.context() as patch:
        patch.setattr(trunk, "TOLERANCE", -1.0)
        assert isinstance(make_trunk("fastest", model, x), EagerTrunk)

    def missing():
        raise UserError("it is not installed")

    monkeypatch.setattr("ztw_rl.core.backends.litert.frozen.require_package", missing)
    assert isinstance(make_trunk("fastest", model, x), EagerTrunk)
