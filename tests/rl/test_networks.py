from __future__ import annotations

import pytest
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy
from stable_baselines3.dqn.policies import CnnPolicy, DQNPolicy
from torch import nn

from tests.networks import early_exit_nature_cnn
from ztw_rl.core.cost import count_macs, n_parameters
from ztw_rl.core.model import METHODS
from ztw_rl.errors import UserError
from ztw_rl.recipes import read
from ztw_rl.rl.networks import early_exit
from ztw_rl.rl.networks.config import IMPALA_WIDTHS, NetworkConfig
from ztw_rl.rl.networks.early_exit import PixelClassifier, PixelICConfig, early_exit_policy
from ztw_rl.rl.networks.layers import orthogonal_
from ztw_rl.rl.networks.sb3 import from_sb3, recognise
from ztw_rl.rl.policy import ChannelsLastCnnPolicy, ImpalaCNN
from ztw_rl.rl.ppo import ACTIVATIONS


def sb3_policy(n_actions=6, frames=4, size=84, net_arch=None):
    torch.manual_seed(0)
    space = Box(0, 255, (frames, size, size), "uint8")
    kwargs = {} if net_arch is None else {"net_arch": net_arch}
    return ActorCriticCnnPolicy(space, Discrete(n_actions), lambda _: 1e-3, **kwargs).eval()


def own(policy, shape=(4, 84, 84), source="policy"):
    """Our parameters of an SB3 policy's."""
    return from_sb3(recognise(policy.state_dict(), shape, "tanh", source), source)


def pictures(n=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 4, 84, 84), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("n_actions", [4, 6, 18])
def test_the_backbone_computes_what_sb3s_policy_does(n_actions):
    policy, x = sb3_policy(n_actions), pictures()
    model = early_exit_nature_cnn(n_actions).eval()
    found = own(policy)
    assert model.load_state_dict(found, strict=False).unexpected_keys == []
    with torch.no_grad():
        wanted = policy.get_distribution(x).distribution.logits
        torch.testing.assert_close(torch.log_softmax(model.backbone(x), -1), wanted)
        torch.testing.assert_close(model(x)[:, -1], wanted)


def test_the_value_net_is_left_out():
    found = own(sb3_policy())
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
    places = {"input": (4, 84), "conv1": (32, 20), "conv2": (64, 9), "conv3": (64, 7)}
    assert NetworkConfig().places == tuple(places)
    model = early_exit_nature_cnn(6, tuple(places)).eval()
    assert model.n_exits == 5
    with torch.no_grad():
        read = [found.features for found in model.exits(pictures(2))]
        assert model(pictures(2)).shape == (2, 5, 6)
    for x, (channels, size) in zip(read[:-1], places.values(), strict=True):
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
        ({"frames": 3}, "'features_extractor.cnn.0.weight' is (32, 3, 8, 8), expected"),
        ({"size": 64}, "'features_extractor.linear.0.weight' is (512, 1024), expected"),
    ],
)
def test_policies_of_other_observations_are_refused(settings, message):
    with pytest.raises(UserError) as raised:
        own(sb3_policy(**settings), source="foreign.zip")
    told = "foreign.zip does not read observations of (4, 84, 84): "
    assert str(raised.value).startswith(told + message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("shape", "net_arch"), [((4, 84, 84), [64]), ((3, 64, 64), []), ((3, 50, 40), [32, 16])]
)
def test_any_frame_and_hidden_layers(shape, net_arch):
    torch.manual_seed(0)
    space = Box(0, 255, shape, "uint8")
    policy = ActorCriticCnnPolicy(space, Discrete(5), lambda _: 1e-3, net_arch=net_arch).eval()
    found = recognise(policy.state_dict(), shape, "tanh", "policy")
    assert (found.network.trunk, found.network.hidden) == ("nature", tuple(net_arch))
    model = early_exit_policy(5, found.network, found.network.default_exits).eval()
    assert model.load_state_dict(from_sb3(found, "policy"), strict=False).unexpected_keys == []
    x = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    with torch.no_grad():
        wanted = policy.get_distribution(x).distribution.logits
        torch.testing.assert_close(model(x)[:, -1], wanted)
        assert model(x).shape == (3, 3, 5)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("net_arch", [[8], [16, 8, 4]])
def test_mlp_policies(net_arch, activation):
    torch.manual_seed(0)
    space, kind = Box(-1, 1, (6,)), ACTIVATIONS[activation]
    policy = ActorCriticPolicy(
        space, Discrete(3), lambda _: 1e-3, net_arch=net_arch, activation_fn=kind
    ).eval()
    found = recognise(policy.state_dict(), (6,), activation, "policy")
    assert found.network == NetworkConfig((6,), "mlp", (), tuple(net_arch), activation)
    model = early_exit_policy(3, found.network, found.network.default_exits).eval()
    model.load_state_dict(from_sb3(found, "policy"), strict=False)
    x = torch.randn(4, 6)
    with torch.no_grad():
        wanted = policy.get_distribution(x).distribution.logits
        torch.testing.assert_close(model(x)[:, -1], wanted)


def test_an_mlp_policy_on_images():
    torch.manual_seed(0)
    space = Box(0, 255, (3, 7, 6), "uint8")
    policy = ActorCriticPolicy(space, Discrete(3), lambda _: 1e-3, net_arch=[8, 4]).eval()
    found = recognise(policy.state_dict(), (3, 7, 6), "tanh", "policy")
    model = early_exit_policy(3, found.network, found.network.default_exits).eval()
    model.load_state_dict(from_sb3(found, "policy"), strict=False)
    x = torch.randint(0, 256, (4, 3, 7, 6), dtype=torch.uint8)
    with torch.no_grad():
        wanted = policy.get_distribution(x).distribution.logits
        torch.testing.assert_close(model(x)[:, -1], wanted)


@pytest.mark.parametrize(("policy", "shape"), [("mlp", (6,)), ("cnn", (3, 40, 44))])
def test_a_dqns_policy_is_the_softmax_of_its_values(policy, shape):
    torch.manual_seed(0)
    space = Box(-1, 1, shape) if policy == "mlp" else Box(0, 255, shape, "uint8")
    kind = DQNPolicy if policy == "mlp" else CnnPolicy
    dqn = kind(space, Discrete(3), lambda _: 1e-3).eval()
    found = recognise(dqn.state_dict(), shape, "relu", "policy")
    assert found.algorithm == "dqn"
    model = early_exit_policy(3, found.network, found.network.default_exits).eval()
    model.load_state_dict(from_sb3(found, "policy", temperature=0.5), strict=False)
    x = torch.randn(4, 6) if policy == "mlp" else torch.randint(0, 256, (4, *shape)).byte()
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(x), dqn.q_net(x) / 0.5)


def test_an_impala_policy():
    torch.manual_seed(0)
    space = Box(0, 255, (4, 84, 84), "uint8")
    policy = ChannelsLastCnnPolicy(
        space,
        Discrete(6),
        lambda _: 1e-3,
        net_arch=[],
        features_extractor_class=ImpalaCNN,
        features_extractor_kwargs={"widths": IMPALA_WIDTHS},
    ).eval()
    found = recognise(policy.state_dict(), (4, 84, 84), "tanh", "policy")
    assert found.network.default_exits == ("stage1", "stage2", "stage3")
    model = early_exit_policy(6, found.network, found.network.default_exits).eval()
    model.load_state_dict(from_sb3(found, "policy"), strict=False)
    with torch.no_grad():
        wanted = policy.get_distribution(pictures()).distribution.logits
        torch.testing.assert_close(model(pictures())[:, -1], wanted, rtol=1e-4, atol=1e-5)


def impala_macs(widths, n_actions):
    """By hand: each stage convolves at its input's size, then four times at half of it."""
    macs, before, side = 0, 4, 84
    for channels in widths[:-1]:
        macs += side**2 * 9 * before * channels
        side = -(-side // 2)
        macs += 4 * side**2 * 9 * channels**2
        before = channels
    return macs + side**2 * before * widths[-1] + widths[-1] * n_actions


@pytest.mark.parametrize("widths", [IMPALA_WIDTHS, (32, 64, 64, 256)])
def test_operations_of_an_impala_cnn_by_hand(widths):
    model = early_exit.policy_alone(6, NetworkConfig(trunk="impala", widths=widths)).eval()
    x = pictures(1)
    assert count_macs(lambda: model.backbone(x)) == impala_macs(widths, 6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "foreign.zip holds no policy of PPO, A2C or DQN with discrete actions"),
        (["log_std"], "foreign.zip has continuous actions; only policies with discrete actions"),
        (["lstm_actor.weight"], "foreign.zip is recurrent; only policies without memory"),
        (["quantile_net.0.weight"], "foreign.zip is a QR-DQN, which is not supported; take PPO"),
        (
            ["features_extractor.extractors.image.cnn.0.weight"],
            "foreign.zip reads several observations at once (Dict); add a wrapper",
        ),
        (
            ["action_net.weight", "features_extractor.net.weight"],
            "foreign.zip has a features extractor of its own ('features_extractor.net.weight')",
        ),
    ],
)
def test_policies_that_are_not_supported(names, message):
    with pytest.raises(UserError) as raised:
        recognise({name: torch.zeros(2, 2) for name in names}, (4,), "tanh", "foreign.zip")
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_shape": (4,)}, "a network of the kind nature reads images (C, H, W), not (4,)"),
        ({"input_shape": (3, 7, 7)}, "a NatureCNN needs images of 36x36 at least, not 7x7"),
        ({"trunk": "mlp", "widths": ()}, "hidden must be at least one layer of an mlp, not ()"),
        ({"normalizes": True}, "normalizes must be of vectors only, not True"),
    ],
)
def test_networks_that_do_not_read_such_observations(settings, message):
    with pytest.raises(UserError) as raised:
        NetworkConfig(**settings)
    assert str(raised.value).startswith(message)


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


def test_a_head_on_patches_by_hand():
    ic = PixelClassifier(PixelICConfig.of("patches", 4, (84, 84), 6)).eval()
    # 21×21, 9×9 and 7×7 places.
    convs = 441 * 8 * 64, 81 * 16 * 128, 49 * 16 * 144
    macs = count_macs(lambda: ic(torch.zeros(1, 4, 84, 84)))
    assert macs == sum(convs) + 49 * 16 * 6 == 509_280
    assert PixelICConfig.of("windows", 4, (84, 84), 6) == PixelICConfig(4, (84, 84), 6)


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
