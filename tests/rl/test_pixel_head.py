from __future__ import annotations

import pytest
import torch

from ztw_rl.core.cost import count_macs, n_parameters
from ztw_rl.rl.pixel_head import PixelClassifier, PixelICConfig


def make(**settings):
    torch.manual_seed(0)
    return PixelClassifier(PixelICConfig(4, (84, 84), 6, **settings)).eval()


def test_operations_and_parameters_by_hand():
    ic = make()
    # 20×20, 9×9 and 7×7 places.
    convs = 400 * 4 * 256, 81 * 16 * 64, 49 * 16 * 144
    linear = 49 * 16 * 6
    macs = count_macs(lambda: ic(torch.zeros(1, 4, 84, 84)))
    assert macs == sum(convs) + linear == 610_144
    assert n_parameters(ic) == 4 * 257 + 16 * 65 + 16 * 145 + (49 * 16 + 1) * 6


@pytest.mark.parametrize("size", [(84, 84), (44, 60), (160, 160)])
def test_shapes(size):
    ic = PixelClassifier(PixelICConfig(4, size, 5, channels=(2, 3, 6))).eval()
    assert ic(torch.zeros(2, 4, *size)).shape == (2, 5)
    assert ic.convs(torch.zeros(1, 4, *size)).shape == (1, 6, *ic.config.conv_size)


def test_every_pixel_matters():
    ic = make()
    x = torch.rand(16, 4, 84, 84, requires_grad=True)
    ic(x).square().sum().backward()
    assert (x.grad.abs().amax(dim=(0, 1)) > 0).all()


def test_it_begins_orthogonal_and_unbiased():
    for conv in make().convs[::2]:
        rows = conv.weight.flatten(1)
        # √2 makes up for what the ReLU takes.
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(len(rows)), rtol=0, atol=1e-5)
        assert not conv.bias.any()
