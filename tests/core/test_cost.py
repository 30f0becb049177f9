from __future__ import annotations

import pytest
import torch

from tests.networks import early_exit_nature_cnn
from ztw_rl.core.cost import (
    count_macs,
    exit_costs,
    hindsight_improvability,
    n_parameters,
    relative_cost,
)
from ztw_rl.core.model import METHODS

PIXELS = torch.zeros(1, 4, 84, 84, dtype=torch.uint8)


def conv(out_size, out_channels, in_channels, kernel):
    """MACs of a convolution on a square map: every output cell sees every weight once."""
    return out_size**2 * out_channels * in_channels * kernel**2


TRUNK = [conv(20, 32, 4, 8), conv(9, 64, 32, 4), conv(7, 64, 64, 3), 64 * 7 * 7 * 512]


def closed_form(n_actions, cascade):
    """MACs of the two ICs, of the head, and of the backbone."""
    first = conv(5, 32, 32, 3) + 32 * 4 * 4 * n_actions
    second = conv(2, 64, 64, 3) + (64 * 2 * 2 + cascade * n_actions) * n_actions
    head = 512 * n_actions
    return first, second, head, sum(TRUNK) + head


@pytest.mark.parametrize("n_actions", [3, 6, 18])
@pytest.mark.parametrize("method", ["ztw", "sdn"])
def test_nature_cnn_in_whole_numbers(n_actions, method):
    first, second, head, backbone = closed_form(n_actions, METHODS[method].cascade)
    costs = exit_costs(early_exit_nature_cnn(n_actions, method=METHODS[method]).eval(), PIXELS)
    assert costs.backbone_macs == backbone
    assert costs.macs == (
        TRUNK[0] + first,
        sum(TRUNK[:2]) + first + second,
        sum(TRUNK) + first + second + head,
    )


def test_nature_cnn_with_six_actions():
    costs = exit_costs(early_exit_nature_cnn(6).eval(), PIXELS)
    assert costs.backbone_macs == 9_346_048
    assert [f"{share:.1%}" for share in costs.relative_macs] == ["37.6%", "67.6%", "104.1%"]


@pytest.mark.parametrize("fast", [True, False])
def test_attention_counts_however_it_is_computed(fast):
    """Six tokens of eight numbers, a hidden layer of sixteen."""
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        found = count_macs(lambda: layer(torch.zeros(1, 6, 8)))
        assert torch.backends.mha.get_fastpath_enabled() is fast
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    # Queries, keys and values; their products; the output; the hidden layer.
    assert found == 6 * 8 * 24 + 2 * 6 * 6 * 8 + 6 * 8 * 8 + 2 * 6 * 8 * 16


def test_an_exit_before_the_first_convolution():
    costs = exit_costs(early_exit_nature_cnn(6, ("input", "conv1", "conv2")).eval(), PIXELS)
    first, second, head, backbone = closed_form(6, cascade=True)
    # The IC after the first convolution now has a predecessor whose six logits it reads.
    own, first = 610_144, first + 6 * 6
    assert costs.macs == (
        own,
        own + TRUNK[0] + first,
        own + sum(TRUNK[:2]) + first + second,
        own + sum(TRUNK) + first + second + head,
    )
    shares = [macs / backbone for macs in costs.macs]
    assert [f"{share:.1%}" for share in shares] == ["6.5%", "44.1%", "74.1%", "110.6%"]


def test_parameters_add_up():
    model = early_exit_nature_cnn(6).eval()
    costs = exit_costs(model, PIXELS)
    assert costs.backbone_parameters == n_parameters(model.blocks) + n_parameters(model.head)
    # conv1, the IC's convolution, γ, its linear layer, the ensemble's weight and six biases.
    first = (4 * 64 + 1) * 32 + (32 * 9 + 1) * 32 + 1 + (512 + 1) * 6 + (1 + 6)
    assert costs.parameters[0] == first
    # Of the ensemble's 2×2 weights, the one that looks ahead does nothing.
    assert costs.parameters[-1] == n_parameters(model) - 1


def test_a_mac_counts_as_one():
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    assert count_macs(lambda: a @ b) == 3 * 5 * 7


def test_any_network(make_model):
    costs = exit_costs(make_model(n_ics=2, method="sdn", mlp=True), torch.zeros(1, 8))
    layer, ic, head = 8 * 8, 8 * 3 * 9 + 3 * 3, 8 * 3
    assert costs.backbone_macs == 3 * layer + head
    assert costs.macs == (layer + ic, 2 * (layer + ic), 3 * layer + 2 * ic + head)


def test_without_ics_the_end_costs_the_backbone(make_model):
    costs = exit_costs(make_model(n_ics=0), torch.zeros(1, 4, 6, 6))
    assert costs.relative_macs == (1.0,)
    assert costs.parameters == (costs.backbone_parameters,)


def test_relative_cost_is_the_mixture():
    assert relative_cost((0.5, 0.25, 0.25), (0.4, 0.6, 1.0)) == pytest.approx(0.6)
    assert relative_cost((0.0, 1.0), (0.4, 1.1)) == pytest.approx(1.1)
    with pytest.raises(ValueError, match="zip"):
        relative_cost((1.0,), (0.4, 1.1))


def test_hindsight_improvability_by_hand():
    labels = torch.tensor([0, 1, 2, 3, 4])
    # Exit 0 gets samples 0, 1, 2 right; exit 1 gets 0, 3; exit 2 gets 3, 4.
    predictions = torch.tensor([[0, 0, 9], [1, 9, 9], [2, 9, 9], [9, 3, 3], [9, 9, 4]])
    # Exit 1 errs on 1, 2, 4, of which exit 0 had 1, 2. Exit 2 errs on 0, 1, 2, all had before.
    wanted = torch.tensor([0.0, 2 / 3, 1.0], dtype=torch.float64)
    torch.testing.assert_close(hindsight_improvability(predictions, labels), wanted)


def test_an_exit_without_errors_has_nothing_to_improve():
    labels = torch.tensor([0, 1])
    found = hindsight_improvability(torch.tensor([[0, 0, 9], [9, 1, 1]]), labels)
    assert found[0] == 0
    assert found[1].isnan()
    assert found[2] == 1


def test_a_right_answer_that_comes_later_does_not_count():
    found = hindsight_improvability(torch.tensor([[9, 0]]), torch.tensor([0]))
    assert found[0] == 0
