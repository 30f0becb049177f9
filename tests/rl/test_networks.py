from __future__ import annotations

import pytest
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from torch import nn

from ztw_rl.core.cost import count_macs, n_parameters
from ztw_rl.core.model import METHODS
from ztw_rl.errors import UserError
from ztw_rl.recipes import read
from ztw_rl.rl.networks import (
    ATTACH_POINTS,
    PixelClassifier,
    PixelICConfig,
    early_exit_nature_cnn,
    from_sb3,
    orthogonal_,
)
from ztw_rl.rl.policy import ChannelsLastCnnPolicy


def sb3_policy(n_actions=6, frames=4, size=84, net_arch=None):
    torch.manual_seed(0)
    space = Box(0, 255, (frames, size, size), "uint8")
    kwargs = {} if net_arch is None else {"net_arch": net_arch}
    return ActorCriticCnnPolicy(space, Discrete(n_actions), lambda _: 1e-3, **kwargs).eval()


def pictures(n=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 4, 84, 84), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("n_actions", [4, 6, 18])
def test_the_backbone_computes_what_sb3s_policy_does(n_actions):
    policy, x = sb3_policy(n_actions), pictures()
    model = early_exit_nature_cnn(n_actions).eval()
    found = from_sb3(policy.state_dict(), "policy")
    assert model.load_state_dict(found, strict=False).unexpected_keys == []
    with torch.no_grad():
        wanted = policy.get_distribution(x).distribution.logits
        torch.testing.assert_close(torch.log_softmax(model.backbone(x), -1), wanted)
        torch.testing.assert_close(model(x)[:, -1], wanted)


def test_the_value_net_is_left_out():
    found = from_sb3(sb3_policy().state_dict(), "policy")
    assert not [name for name in found if "value" in name]
    assert len(found) == 10


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pixels_are_left_as_they_were(dtype, layout):
    x = pictures(2).to(dtype, memory_format=layout)
    before = x.clone()
    early_exit_nature_cnn(6)(x)
    space = Box(0, 255, (4, 84, 84), "uint8")
    ChannelsLastCnnPolicy(space, Discrete(6), lambda _: 1e-3).extract_features(x)
    assert torch.equal(x, before)


def test_places_are_as_the_table_says():
    model = early_exit_nature_cnn(6, tuple(ATTACH_POINTS)).eval()
    assert model.n_exits == 5
    with torch.no_grad():
        read = [found.features for found in model.exits(pictures(2))]
        assert model(pictures(2)).shape == (2, 5, 6)
    for x, (_, channels, size) in zip(read[:-1], ATTACH_POINTS.values(), strict=True):
        assert x.shape == (2, channels, size, size)


def test_the_recipe_key_of_an_exit_before_the_first_convolution(tmp_path):
    path = tmp_path / "pong.yaml"
    path.write_text("distill: {exits: [input, conv1, conv2]}")
    exits = read(path).distill.exits
    model = early_exit_nature_cnn(6, exits)
    assert isinstance(model.ics[0], PixelClassifier)
    assert model.ensemble.n_exits == 3
    # The next IC cascades from it.
    assert model.ics[1].linear.in_features == 32 * 16 + 6


def test_the_ics_of_the_paper():
    model = early_exit_nature_cnn(6)
    first, second = model.ics
    assert (first.conv.weight.shape, second.conv.weight.shape) == ((32, 32, 3, 3), (64, 64, 3, 3))
    assert first.linear.in_features == 32 * 16
    assert second.linear.in_features == 64 * 4 + 6
    assert isinstance(second.norm, torch.nn.LayerNorm)
    assert model.ensemble.n_exits == 2
    assert not model.is_ensembled(2)
    plain = early_exit_nature_cnn(6, method=METHODS["sdn"])
    assert plain.ensemble is None
    assert plain.ics[1].linear.in_features == 64 * 4


@pytest.mark.parametrize("exits", [(), ("conv9",), ("conv2", "conv1"), ("conv1", "conv1")])
def test_places_that_do_not_exist(exits):
    with pytest.raises(UserError, match="exits must be some of input, conv1, conv2, conv3"):
        early_exit_nature_cnn(6, exits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 3}, "'features_extractor.cnn.0.weight' is missing or of another shape"),
        ({"size": 64}, "'features_extractor.linear.0.weight' is missing or of another shape"),
        ({"net_arch": [64]}, "'action_net.weight' is missing or of another shape"),
        ({"net_arch": [512]}, r"\('mlp_extractor.policy_net.0.weight'\).*with net_arch=\[\]"),
    ],
)
def test_other_policies_are_refused(settings, message):
    with pytest.raises(UserError, match=message) as raised:
        from_sb3(sb3_policy(**settings).state_dict(), "foreign.zip")
    assert str(raised.value).startswith("foreign.zip ")
    assert "\n" not in str(raised.value)


def test_no_policy_at_all():
    with pytest.raises(UserError, match="is no plain NatureCNN CnnPolicy"):
        from_sb3({}, "foreign.zip")


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
