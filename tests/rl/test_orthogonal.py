"""Orthogonal weights, whatever the memory layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ztw_rl.rl.orthogonal import orthogonal_


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_rows_or_columns_are_orthogonal_and_as_long_as_the_gain(layout):
    torch.manual_seed(0)
    wide = nn.Conv2d(4, 8, 3).to(memory_format=layout)
    tall = nn.Linear(3, 5)
    net = nn.Sequential(wide, nn.ReLU(), nn.Sequential(tall), nn.Conv2d(2, 2, 1, bias=False))
    orthogonal_(net, gain=3)
    rows = wide.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, 9 * torch.eye(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(tall.weight.T @ tall.weight, 9 * torch.eye(3), rtol=0, atol=1e-5)
    assert not wide.bias.any()
    assert not tall.bias.any()
    assert wide.weight.is_contiguous(memory_format=layout)


def test_the_layout_does_not_change_the_values():
    def weights(layout):
        torch.manual_seed(0)
        conv = nn.Conv2d(4, 8, 3).to(memory_format=layout)
        orthogonal_(conv, 1.0)
        return conv.weight

    assert torch.equal(weights(torch.contiguous_format), weights(torch.channels_last))


def test_other_layers_stay():
    norm = nn.LayerNorm(3)
    nn.init.constant_(norm.bias, 2)
    orthogonal_(norm, 1.0)
    assert norm.bias.tolist() == [2, 2, 2]
