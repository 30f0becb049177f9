from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ztw_rl.core.cost import count_macs, n_parameters
from ztw_rl.core.model import METHODS
from ztw_rl.errors import UserError
from ztw_rl.supervised.backbones.base import NormalizePixels
from ztw_rl.supervised.backbones.registry import build_backbone, early_exit
from ztw_rl.supervised.backbones.weights import final_names, load_weights, read_weights
from ztw_rl.supervised.config import DataConfig, PixelConfig
from ztw_rl.supervised.data.datasets import open_source
from ztw_rl.supervised.train_backbone import accuracy

SHARED = Path(os.environ.get("ZTW_RL_SHARED", "../shared"))


def convolution(before: int, after: int, kernel: int, side: int, groups: int = 1) -> int:
    """MACs of a convolution whose output is side × side."""
    return before * after * kernel**2 * side**2 // groups


def resnet56() -> tuple[int, int]:
    """Parameters and MACs, 10 classes, 32×32."""
    parameters, macs = 3 * 16 * 9 + 2 * 16, convolution(3, 16, 3, 32)
    before = 16
    for channels, side in ((16, 32), (32, 16), (64, 8)):
        for _ in range(9):
            parameters += 9 * channels * (before + channels) + 4 * channels
            macs += convolution(before, channels, 3, side) + convolution(
                channels, channels, 3, side
            )
            before = channels
    return parameters + 64 * 10 + 10, macs + 640


def mobilenet() -> tuple[int, int]:
    parameters, macs = 3 * 32 * 9 + 2 * 32, convolution(3, 32, 3, 32)
    before, side = 32, 32
    widths = [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    for number, channels in enumerate(widths):
        side //= 2 if number in (1, 3, 5, 11) else 1
        parameters += 9 * before + 2 * before + before * channels + 2 * channels
        macs += convolution(before, before, 3, side, before)
        macs += convolution(before, channels, 1, side)
        before = channels
    return parameters + 1024 * 10 + 10, macs + 10240


def wideresnet() -> tuple[int, int]:
    parameters, macs = 3 * 16 * 9, convolution(3, 16, 3, 32)
    before, side_before = 16, 32
    for channels, side in ((64, 32), (128, 16), (256, 8)):
        for _ in range(5):
            parameters += 2 * before + 9 * before * channels + 2 * channels + 9 * channels**2
            # The first convolution of a stage still has the old resolution.
            macs += convolution(before, channels, 3, side_before)
            macs += convolution(channels, channels, 3, side)
            if before != channels:
                parameters += before * channels
                macs += convolution(before, channels, 1, side)
            before, side_before = channels, side
    return parameters + 2 * 256 + 2560 + 10, macs + 2560


def vgg16() -> tuple[int, int]:
    parameters = macs = 0
    before, side = 3, 32
    for stage in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(stage[1]):
            parameters += 9 * before * stage[0] + 3 * stage[0]
            macs += convolution(before, stage[0], 3, side)
            before = stage[0]
        side //= 2
    linear = [(512, 512), (512, 512), (512, 10)]
    parameters += sum(a * b + b for a, b in linear)
    return parameters, macs + sum(a * b for a, b in linear)


@pytest.mark.parametrize(
    ("arch", "closed_form", "millions"),
    [
        ("resnet56", resnet56(), (0.85, 125.5)),
        ("mobilenet", mobilenet(), (3.22, 46.4)),
        ("wideresnet", wideresnet(), (7.40, 1185.3)),
        ("vgg16", vgg16(), (15.25, 313.7)),
    ],
)
def test_parameters_and_macs(arch, closed_form, millions):
    network = build_backbone(arch, 10, 32).eval()
    found = n_parameters(network), count_macs(lambda: network(torch.zeros(1, 3, 32, 32)))
    assert found == closed_form
    assert tuple(f / 1e6 for f in found) == pytest.approx(millions, rel=5e-3)


def test_resnet50_is_torchvisions():
    network = build_backbone("resnet50", 1000, 224).eval()
    assert n_parameters(network) == 25_557_032
    assert {"conv1.weight", "layer4.2.bn3.running_var", "fc.bias"} <= network.state_dict().keys()
    macs = count_macs(lambda: network(torch.zeros(1, 3, 224, 224)))
    assert macs / 1e9 == pytest.approx(4.089, rel=1e-3)


@pytest.mark.parametrize(
    ("arch", "n_ics"), [("resnet56", 27), ("mobilenet", 13), ("wideresnet", 15), ("vgg16", 14)]
)
@pytest.mark.parametrize("image_size", [32, 64])
def test_an_ic_after_each_block(arch, n_ics, image_size):
    network = build_backbone(arch, 10, image_size)
    pixels = PixelConfig(image_size=image_size)
    model = early_exit(network, arch, METHODS["ztw"], n_classes=10, pixels=pixels).eval()
    assert len(model.ics) == n_ics
    for ic in model.ics:
        large = image_size == 64 and min(ic.config.in_size) > 8
        assert ic.config.stride == (2 if large else 1)
        assert ic.config.out_channels == ic.config.in_channels
    x = torch.randint(256, (2, 3, image_size, image_size), dtype=torch.uint8)
    with torch.no_grad():
        assert model(x).shape == (2, n_ics + 1, 10)
        plain = network.eval()(NormalizePixels(pixels.mean, pixels.std)(x))
        torch.testing.assert_close(model.backbone(x), plain)


def test_number_of_ics():
    network = build_backbone("resnet56", 10, 32)
    settings = {"n_classes": 10, "pixels": PixelConfig()}
    model = early_exit(network, "resnet56", METHODS["sdn"], n_ics=3, **settings)
    # Nine blocks apart; normalisation and the first convolution lie before all of them.
    assert model.attach == (2 + 9, 2 + 18, 2 + 27)
    with pytest.raises(UserError, match="n_ics is 28, but the network has 27 blocks"):
        early_exit(network, "resnet56", METHODS["sdn"], n_ics=28, **settings)


def test_checkpoints_in_every_wrapping(tmp_path):
    network = build_backbone("resnet56", 10, 32)
    weights = network.state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "a.th")
    torch.save(weights, tmp_path / "b.pt")
    counted = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    save_file(counted, tmp_path / "c.safetensors")
    for name in ("a.th", "b.pt", "c.safetensors"):
        other = build_backbone("resnet56", 10, 32)
        load_weights(other, read_weights(tmp_path / name), name)
        for key, value in other.state_dict().items():
            assert torch.equal(value, weights[key])


def test_checkpoints_that_do_not_fit(tmp_path):
    network = build_backbone("resnet56", 10, 32)
    other = build_backbone("mobilenet", 10, 32).state_dict()
    with pytest.raises(UserError, match=r"another network: 'conv1\.weight'"):
        load_weights(network, other, "file")
    with pytest.raises(UserError, match="another network: 'extra' has no place"):
        load_weights(network, network.state_dict() | {"extra": torch.zeros(1)}, "file")
    torch.save({"model": object}, tmp_path / "pickle.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    torch.save({"epoch": 3}, tmp_path / "number.pt")
    for name, message in [
        ("pickle.pt", "cannot be read as weights"),
        ("noise.pt", "cannot be read as weights"),
        ("number.pt", "something else than weights"),
        ("nowhere.pt", "does not exist"),
    ]:
        with pytest.raises(UserError, match=message) as raised:
            read_weights(tmp_path / name)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("arch", ["resnet56", "mobilenet", "wideresnet", "vgg16"])
def test_the_final_layer_is_the_one_that_tells_classes_apart(arch):
    ten, seven = (build_backbone(arch, n, 32).state_dict() for n in (10, 7))
    differ = {name for name in ten if ten[name].shape != seven[name].shape}
    assert differ == set(final_names(build_backbone(arch, 10, 32)))


def test_images_of_an_odd_size():
    with pytest.raises(UserError, match="multiple of 32, not 48"):
        build_backbone("vgg16", 10, 48)


@pytest.mark.slow
def test_the_published_resnet56_scores_what_it_should():
    weights = SHARED / "models" / "resnet56-cifar10.safetensors"
    data = SHARED / "data" / "cifar10"
    if not weights.is_file() or not data.is_dir():
        pytest.skip(f"no published ResNet-56 and CIFAR-10 in {SHARED} (set ZTW_RL_SHARED)")
    network = build_backbone("resnet56", 10, 32)
    load_weights(network, read_weights(weights), weights)
    source = open_source(DataConfig("cifar10", str(data)), "test", torch.device("cpu"))
    pixels = PixelConfig()
    found = accuracy(network.eval(), NormalizePixels(pixels.mean, pixels.std), source)
    assert found == pytest.approx(0.9339, abs=5e-4)
