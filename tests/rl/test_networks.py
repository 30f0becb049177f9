from __future__ import annotations

import pytest
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.policies import ActorCriticCnnPolicy

from ztw_rl.core.methods import METHODS
from ztw_rl.errors import UserError
from ztw_rl.recipes import read
from ztw_rl.rl.networks import ATTACH_POINTS, early_exit_nature_cnn, from_sb3
from ztw_rl.rl.pixel_head import PixelClassifier
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
