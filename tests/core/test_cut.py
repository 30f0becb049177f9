from __future__ import annotations

import pytest
import torch
from torch import nn

from ztw_rl.core.cut import chain, cut
from ztw_rl.errors import UserError


class Residual(nn.Module):
    """x + W x."""

    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width, bias=False)

    def forward(self, x):
        return x + self.inner(x)


class Net(nn.Module):
    """Three residual blocks of 4² products each, and a head of 4 × 3."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(*(Residual(4) for _ in range(3)))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.head(self.drop(self.trunk(x)))


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def run(found, x):
    for block in found.blocks:
        x = block(x)
    return found.head(x)


@pytest.mark.parametrize("places", [["trunk.0"], ["trunk.0", "trunk.2"], ["trunk.1", "drop"]])
def test_the_parts_compute_what_the_network_does(places):
    network = Net()
    found = cut(network, X, places)
    assert found.places == tuple(places)
    assert found.shapes == ((4,),) * len(places)
    assert found.n_classes == 3
    other = torch.randn(7, 4)
    assert torch.equal(run(found, other), network(other))


def test_the_parts_have_the_networks_own_parameters_under_their_names():
    network = Net()
    found = cut(network, X, ["trunk.1"])
    (block,) = found.blocks
    assert [name for name, _ in block.named_parameters()] == [
        "trunk.0.inner.weight",
        "trunk.1.inner.weight",
    ]
    assert dict(found.head.named_parameters())["head.weight"] is network.head.weight


def test_places_divide_the_operations_equally():
    # 60 products: a third is 20, half 30, two thirds 40; the blocks end at 16, 32 and 48.
    assert cut(Net(), X, 1).places == ("trunk.1",)
    assert cut(Net(), X, 2).places == ("trunk.0", "trunk.1")
    # Three lie at 15, 30 and 45. Of the names of one tensor the shortest is taken.
    assert cut(Net(), X, 3).places == ("trunk.0", "trunk.1", "trunk")


def test_places_are_no_parts_of_what_occurs_several_times():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x):
            return self.second(self.first(x))

    network = nn.Sequential(Deep(), Deep(), nn.Linear(4, 2))
    assert cut(network, X, 1).places == ("0",)
    # Only where that leaves too few.
    assert cut(network, X, 4).places == ("0.first", "0", "1.first", "1")


class Skips(nn.Module):
    """The second layer reads around the first."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x) + x)


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x))


class Scales(nn.Module):
    """A parameter that lies before one cut and is read behind it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((4,), 2.0))
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        torch._assert(x.shape[1] == 4, "four numbers")
        scale = self.scale
        return self.second(self.first(x * scale) * scale)


class Branches(nn.Module):
    """Goes another way for other values."""

    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x


class Pair(nn.Module):
    """Two inputs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, y):
        return self.layer(x) + y


class Optional(Pair):
    """A second input that nobody need give."""

    def forward(self, x, y=None):
        return self.layer(x)


class Both(nn.Module):
    """A submodule that returns two tensors."""

    def __init__(self):
        super().__init__()
        self.split = Chunks()
        self.layer = nn.Linear(2, 3)

    def forward(self, x):
        left, right = self.split(x)
        return self.layer(left + right)


class Chunks(nn.Module):
    """Both halves."""

    def forward(self, x):
        return x[:, :2], x[:, 2:]


def test_parameters_may_be_read_on_both_sides():
    network = Scales()
    found = cut(network, X, ["first"])
    assert torch.equal(run(found, X), network(X))
    assert dict(found.head.named_parameters())["scale"] is network.scale


def test_an_input_that_has_a_default():
    network = Optional()
    assert torch.equal(
        run(cut(nn.Sequential(network, nn.Linear(4, 2)), X, ["0"]), X)[:, :0], X[:, :0]
    )


class Masked(nn.Module):
    """Hands an input that nobody need give, and a number, to what they are for."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, mask=None, scale=2.0):
        x = self.layer(x).unsqueeze(1)
        attended = nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)
        return attended.squeeze(1) * scale


class Attends(Masked):
    """The same, and a layer behind it."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = Masked(), nn.Linear(4, 3)

    def forward(self, x, mask=None, scale=3.0):
        return self.last(self.inner(self.layer(x), mask) * scale)


def test_further_inputs_have_their_defaults():
    network = Attends()
    found = cut(network, X, ["inner"])
    assert torch.equal(run(found, X), network(X))


def test_a_network_that_comes_in_parts():
    torch.manual_seed(0)
    blocks, head = [nn.Linear(4, 6), Branches(6)], nn.Linear(6, 3)
    found = chain(blocks, head, X)
    assert found.blocks == tuple(blocks)
    assert (found.places, found.shapes) == (("block 0", "block 1"), ((6,), (6,)))
    assert (found.head, found.n_classes) == (head, 3)
    assert not any(part.training for part in (*blocks, head))


@pytest.mark.parametrize(
    ("blocks", "head", "message"),
    [
        ([], nn.Linear(4, 3), "there are no blocks"),
        ([nn.Flatten(0), nn.Unflatten(0, (5, 4))], nn.Linear(4, 3), "'block 0' gives no tensor"),
        ([nn.Linear(5, 4)], nn.Linear(4, 3), r"cannot read the example, torch.float32 \(5, 4\) \("),
        ([nn.Linear(4, 4)], nn.Unflatten(1, (2, 2)), r"must give \(B, C\) logits, not \(5, 2, 2\)"),
    ],
)
def test_parts_that_are_no_classifier(blocks, head, message):
    with pytest.raises(UserError, match=message):
        chain(blocks, head, X)


@pytest.mark.parametrize(
    ("network", "places", "message"),
    [
        (Skips(), ["first"], "a cut after 'first' is crossed by more than its output: x"),
        (Twice(), ["layer"], "'layer' is called 2 times"),
        (Net(), ["trunk.4"], "no submodule 'trunk.4'; did you mean 'trunk."),
        (Net(), ["trunk.1", "trunk.0"], "'trunk.0' does not come after 'trunk.1'"),
        (Net(), ["trunk.1", "trunk.1"], "'trunk.1' does not come after 'trunk.1'"),
        (Net(), 9, "has 3 places to cut at, not 9; ask for fewer exits or name them"),
        (Net(), 0, "exits must be at least 1, not 0"),
        (
            Branches(),
            ["layer"],
            "torch.fx cannot trace the network .*; take that out of it",
        ),
        (
            nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)),
            1,
            r"cannot read the example, torch.float32 \(5, 4\) \(.*\); give what it takes",
        ),
        (Pair(), ["layer"], "takes more than one input: 'y'"),
        (Both(), ["split"], "'split' gives no single tensor"),
        (nn.Sequential(nn.Linear(4, 4), nn.Flatten(0)), ["0"], r"must give \(B, C\) logits, not"),
    ],
)
def test_what_cannot_be_cut(network, places, message):
    with pytest.raises(UserError, match=message):
        cut(network, X, places)
