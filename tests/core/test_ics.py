import pytest
import torch

from ztw_rl.core.heads import MapClassifier, TokenClassifier, VectorClassifier
from ztw_rl.core.ics import Convolution, build_ics, quarter
from ztw_rl.core.model import METHODS
from ztw_rl.errors import UserError

SHAPES = [(16, 9, 7), (5, 5, 12), (10, 6), (8,)]


def test_each_shape_has_its_kind_of_ic():
    ics = build_ics(SHAPES, 3, METHODS["ztw"])
    assert list(map(type, ics)) == [
        MapClassifier,
        MapClassifier,
        TokenClassifier,
        VectorClassifier,
    ]
    previous = None
    for ic, shape in zip(ics, SHAPES, strict=True):
        features = torch.randn(4, *shape)
        logits = ic(features, previous)
        assert logits.shape == (4, 3)
        torch.testing.assert_close(ic.from_kept(ic.keep(features), previous), logits)
        previous = logits


def test_only_a_cascade_sees_the_predecessor_and_the_first_never_does():
    assert [ic.connection.cascade for ic in build_ics(SHAPES, 3, METHODS["ztw"])] == [
        False,
        True,
        True,
        True,
    ]
    assert not any(ic.connection.cascade for ic in build_ics(SHAPES, 3, METHODS["sdn"]))


def test_maps_with_channels_last_are_read_as_maps_with_channels_first():
    (first,) = build_ics([(12, 5, 5)], 3, METHODS["sdn"])
    (last,) = build_ics([(5, 5, 12)], 3, METHODS["sdn"])
    assert last.config.channels_last
    last.load_state_dict(first.state_dict())
    x = torch.randn(2, 12, 5, 5)
    torch.testing.assert_close(last(x.permute(0, 2, 3, 1)), first(x))


@pytest.mark.parametrize(("tokens", "pooled"), [("mean", [3.0, 1.0]), ("class", [5.0, 2.0])])
def test_tokens_by_hand(tokens, pooled):
    (ic,) = build_ics([(2, 2)], 2, METHODS["sdn"], tokens=tokens)
    with torch.no_grad():
        ic.linear.weight.copy_(torch.eye(2))
        ic.linear.bias.zero_()
    assert ic(torch.tensor([[[5.0, 2.0], [1.0, 0.0]]])).tolist() == [pooled]


def test_an_ic_on_maps_is_cheap():
    assert quarter(256, 56, 56) == Convolution(64, 2, 1)
    assert quarter(16, 8, 20) == Convolution(16, 1, 1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (2, 3, 4, 5),
            "an exit can read vectors, tokens (T, D) or maps (C, H, W), not (2, 3, 4, 5); "
            "cut elsewhere",
        ),
        ((8, 2, 9), "maps of 2x9 are too small for an exit; cut earlier"),
    ],
)
def test_what_no_ic_reads(shape, message):
    with pytest.raises(UserError) as error:
        build_ics([shape], 2, METHODS["sdn"], convolution=lambda c, h, w: Convolution(c, 1, 0))
    assert str(error.value) == message
