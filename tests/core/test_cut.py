from __future__ import annotations

import pytest
import torch
from torch import nn

from ztw_rl.core.cut import cut
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

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

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
        (Pair(), ["layer"], "takes more than one input: 'y'"),
        (Both(), ["split"], "'split' gives no single tensor"),
        (nn.Sequential(nn.Linear(4, 4), nn.Flatten(0)), ["0"], r"must give \(B, C\) logits, not"),
    ],
)
def test_what_cannot_be_cut(network, places, message):
    with pytest.raises(UserError, match=message):
        cut(network, X, places)
