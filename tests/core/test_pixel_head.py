from __future__ import annotations

import pytest
import torch

from ztw_rl.core.cost import count_macs, n_parameters
from ztw_rl.core.pixel_head import PixelClassifier, PixelICConfig


def make(**settings):
    torch.manual_seed(0)
    return PixelClassifier(PixelICConfig(4, (84, 84), 6, **settings)).eval()


def test_operations_and_parameters_by_hand():
    ic = make()
    # 10×10 tiles of 8×8 pixels in 4 frames, then 4×4 places.
    tiles, conv, linear = 100 * 16 * 256, 16 * 32 * 144, 512 * 6
    assert count_macs(lambda: ic(torch.zeros(1, 4, 84, 84))) == tiles + conv + linear == 486_400
    assert n_parameters(ic) == 2 * 4 + 16 * 257 + 32 * 145 + 1 + 513 * 6


@pytest.mark.parametrize(("size", "tile"), [((84, 84), 8), ((40, 24), 4), ((160, 160), 8)])
def test_shapes(size, tile):
    ic = PixelClassifier(PixelICConfig(4, size, 5, tile=tile)).eval()
    assert ic(torch.zeros(2, 4, *size)).shape == (2, 5)
    height, width = ic.config.conv_size
    assert ic.conv(ic.tiles(torch.zeros(1, 4, *size))).shape == (1, 32, height, width)


def test_a_pixel_in_a_tile_that_is_used_matters_and_none_counts_twice():
    ic = make()
    x = torch.randn(3, 4, 84, 84, requires_grad=True)
    ic.tiles(x).sum().backward()
    # Each pixel of the 80×80 has one weight of each channel: the gradient is their sum.
    weights = ic.tiles.weight.sum(0)
    wanted = torch.zeros(4, 84, 84)
    wanted[:, :80, :80] = weights.tile(1, 10, 10)
    torch.testing.assert_close(x.grad[0], wanted)


def test_brightness_and_contrast_change_nothing():
    ic, x = make(), torch.rand(2, 4, 84, 84)
    torch.testing.assert_close(ic(0.3 * x + 0.5), ic(x), rtol=1e-3, atol=1e-3)


def test_training_reads_what_playing_reads():
    ic, x = make(), torch.randn(2, 4, 84, 84)
    assert torch.equal(ic.from_patches(ic.patches(x)), ic(x))
