"""Networks of timm and torchvision: cut exactly, and taken through the pipeline."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from torch import nn

from ztw_rl.core.backends.onnx import onnx
from ztw_rl.core.cost import count_macs
from ztw_rl.core.cut import cut
from ztw_rl.core.exits import Exceeds
from ztw_rl.core.ics import build_ics
from ztw_rl.core.model import METHODS
from ztw_rl.core.runtime import decide
from ztw_rl.errors import UserError
from ztw_rl.supervised.backbones import libraries
from ztw_rl.supervised.backbones.base import NormalizePixels
from ztw_rl.supervised.backbones.registry import build_backbone, early_exit
from ztw_rl.supervised.backbones.weights import final_names
from ztw_rl.supervised.config import BackboneTraining, PixelConfig, library_arch
from ztw_rl.supervised.engine import SingleProcess
from ztw_rl.supervised.train_backbone import train_backbone

SMALL = [("torchvision:resnet18", 64), ("timm:resnet10t", 64), ("timm:vit_tiny_patch16_224", 64)]
LARGE = [
    ("timm:resnet50", 64),
    ("timm:mobilenetv4_conv_small", 64),
    ("timm:vit_small_patch16_224", 64),
    ("torchvision:mobilenet_v3_large", 64),
    ("torchvision:convnext_tiny", 64),
    ("torchvision:vit_b_16", 224),
    ("torchvision:swin_t", 64),
]


@pytest.mark.parametrize(
    ("arch", "image_size"), [*SMALL, *(pytest.param(*a, marks=pytest.mark.slow) for a in LARGE)]
)
def test_the_parts_compute_what_the_network_does(arch, image_size):
    torch.manual_seed(0)
    network = build_backbone(arch, 7, image_size).eval()
    found = cut(network, torch.zeros(1, 3, image_size, image_size), 3)
    x = torch.randn(2, 3, image_size, image_size)
    with torch.no_grad():
        features = x
        for block in found.blocks:
            features = block(features)
        assert torch.equal(found.head(features), network(x))
    # Each part has a share of the work, and each place an IC.
    total, last = count_macs(lambda: network(x)), 0
    for n in range(1, 4):
        blocks = nn.Sequential(*found.blocks[:n])
        until = count_macs(lambda: blocks(x))  # noqa: B023
        assert abs(until / total - n / 4) < 0.13
        assert last < until < total
        last = until
    ics = build_ics(found.shapes, 7, METHODS["ztw"])
    assert len(ics) == 3


@pytest.mark.parametrize(("arch", "image_size"), SMALL[:2])
def test_a_model_reads_pixels_and_keeps_the_librarys_names(arch, image_size):
    network = build_backbone(arch, 7, image_size).eval()
    library = library_arch(arch)
    again = libraries.build(library, 7, image_size)
    again.load_state_dict(network.state_dict())
    assert set(final_names(network)) == {"fc.weight", "fc.bias"}
    pixels = PixelConfig(image_size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    settings = {"n_classes": 7, "pixels": pixels}
    model = early_exit(network, arch, METHODS["ztw"], **settings).eval()
    assert (model.n_exits, model.ensemble.n_exits) == (4, 4)
    x = torch.randint(256, (2, 3, image_size, image_size), dtype=torch.uint8)
    with torch.no_grad():
        wanted = again.eval()(NormalizePixels(pixels.mean, pixels.std)(x))
        torch.testing.assert_close(model.backbone(x), wanted)
    assert len(early_exit(network, arch, METHODS["sdn"], n_ics=2, **settings).ics) == 2


@pytest.mark.parametrize(
    ("arch", "image_size"),
    [SMALL[1], *(pytest.param(*a, marks=pytest.mark.slow) for a in (*SMALL[::2], *LARGE))],
)
def test_an_exported_file_answers_as_the_model_does(arch, image_size):
    torch.manual_seed(0)
    network = build_backbone(arch, 7, image_size)
    pixels = PixelConfig(image_size)
    model = early_exit(network, arch, METHODS["ztw"], n_classes=7, pixels=pixels).eval()
    x = torch.randint(256, (5, 3, image_size, image_size), dtype=torch.uint8)
    backend = onnx(model, x[:1])
    with torch.no_grad():
        answers = model(x)
    for m in range(4):
        rule = Exceeds.forced(torch.full((5,), m), 4)
        found = torch.from_numpy(decide(backend.segments, x, rule).log_probs)
        torch.testing.assert_close(found, answers[:, m], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arch", "wanted"),
    [
        ("timm:vit_tiny_patch16_224", PixelConfig(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
        ("torchvision:resnet18", PixelConfig(224)),
        ("torchvision:inception_v3", PixelConfig(299)),
    ],
)
def test_what_the_weights_are_made_for(arch, wanted):
    assert libraries.preprocessing(library_arch(arch)) == wanted


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet65", "there is no network 'resnet65'; did you mean 'resnet56'? Others are called"),
        ("timm:", "there is no network 'timm:'; did you mean"),
        ("keras:resnet50", "there is no network 'keras:resnet50'; did you mean 'resnet50'?"),
        ("timm:resnet5", "timm has no network 'resnet5'; did you mean timm:resnet50?"),
        ("torchvision:resnet19", "has no network 'resnet19'; did you mean torchvision:resnet1"),
        (
            "torchvision:vit_b_16",
            "torchvision:vit_b_16 cannot read images of 64x64 pixels (Wrong image height! "
            "Expected 224 but got 64!); choose another --image-size, or another --arch",
        ),
        ("torchvision:squeezenet1_1", "torchvision:squeezenet1_1 has no final linear layer"),
    ],
)
def test_networks_that_cannot_be_had(arch, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        build_backbone(arch, 7, 64)
    assert "\n" not in str(caught.value)


def test_a_library_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm is needed here; .*'ztw-rl\[timm\]'"):
        build_backbone("timm:resnet50", 7, 64)


def test_a_network_that_gives_more_while_it_trains(tiny_source, tmp_path):
    """As torchvision's Inception does."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3 * 32 * 32, 3)

        def forward(self, x):
            logits = self.fc(x.flatten(1))
            return (logits, logits) if self.training else logits

    with pytest.raises(UserError, match="gives tuple while it trains and not only logits"):
        train_backbone(
            Two(),
            PixelConfig(),
            tiny_source(),
            None,
            BackboneTraining(n_epochs=1),
            tmp_path,
            seed=0,
            engine=SingleProcess("cpu"),
        )
