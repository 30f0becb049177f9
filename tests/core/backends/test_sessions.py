from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.networks import gated, of_pixels
from ztw_rl.core.backends.litert.backend import litert
from ztw_rl.core.backends.onnx import onnx
from ztw_rl.core.exits import Exceeds, Patience, most_confident, select
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import decide, signals


@pytest.fixture(params=[onnx, litert], ids=["onnx", "litert"])
def make(request):
    """From a model, an input and a number of threads to a backend."""
    return request.param


THRESHOLDS = (0.0, 0.5, 0.8, 1.5)


def check(backend, model, x):
    """Every answer is the offline selection's."""
    # Rounding adds up along a cascade of many random ICs.
    tolerance = 1e-4 * max(1, model.n_exits / 5)
    for threshold in THRESHOLDS:
        prediction = backend.predict(x, (threshold,) * (model.n_exits - 1))
        answers = model(x)
        exits, _ = select(answers, Exceeds.uniform(threshold, model.n_exits))
        expected = answers[torch.arange(len(x)), exits]
        assert prediction.exits.tolist() == exits.tolist()
        assert prediction.labels.tolist() == expected.argmax(dim=-1).tolist()
        torch.testing.assert_close(
            torch.from_numpy(prediction.log_probs), expected, atol=tolerance, rtol=0
        )


class Appends(nn.Module):
    """A linear layer of the features and of two numbers that are the same for every sample."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.numbers = nn.Parameter(torch.randn(1, 2))
        self.linear = nn.Linear(n_features + 2, n_classes)

    def forward(self, x):
        return self.linear(torch.cat([x.flatten(1), self.numbers.expand(len(x), -1)], dim=1))


def test_a_layer_far_behind_the_input_that_needs_the_size_of_the_batch(make, make_model):
    model = make_model(3)
    head = Appends(4 * 9 * 9, 5)
    model = EarlyExitModel(model.blocks, head, model.ics, model.attach, model.ensemble)
    model = model.eval().requires_grad_(False)
    x = torch.randn(40, 3, 9, 9)
    backend = make(model, x[:1])
    check(backend, model, x)
    check(backend, model, x[:1])
    torch.testing.assert_close(backend.backbone(x), model.backbone(x))


@pytest.mark.parametrize(
    ("method", "ensemble_head"),
    [("sdn", False), ("ztw", False), ("ztw", True), ("additive", False), ("additive", True)],
)
def test_its_segments_serve_any_rule(make, make_model, method, ensemble_head):
    torch.manual_seed(0)
    model = make_model(4, method, ensemble_head=ensemble_head)
    x = torch.randn(64, 3, 9, 9)
    segments, answers, found = make(model, x[:1]).segments, model(x), set()
    for rule in (
        Exceeds(torch.rand(64, 3)),
        Exceeds.forced(torch.randint(0, 4, (64,)), 4),
        Patience(torch.randint(1, 4, (64,))),
    ):
        decision = decide(segments, x, rule, most_confident)
        left_at, answered_by = select(answers, rule, most_confident)
        assert decision.exits.tolist() == answered_by.tolist()
        expected = answers[torch.arange(64), answered_by]
        torch.testing.assert_close(
            torch.from_numpy(decision.log_probs), expected, atol=1e-4, rtol=0
        )
        found.update(left_at.tolist())
    assert found == {0, 1, 2, 3}


def test_the_stage_of_a_network_without_ics(make, make_model):
    torch.manual_seed(0)
    model, x = make_model(1), torch.randn(5, 3, 9, 9)
    decision = decide(make(model, x[:1]).segments, x, Exceeds.uniform(0.5, 1))
    torch.testing.assert_close(
        torch.from_numpy(decision.log_probs), model(x)[:, 0], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("method", "n_exits"),
    [("ztw", 1), ("sdn", 2), ("cascade", 5), ("ztw", 5), ("additive", 2), ("ztw", 27)],
)
def test_equals_the_offline_selection(make, make_model, method, n_exits):
    torch.manual_seed(0)
    model = make_model(n_exits, method)
    backend = make(model, torch.zeros(1, 3, 9, 9))
    for batch_size in (0, 1, 7, 256):
        check(backend, model, torch.randn(batch_size, 3, 9, 9))
    x = torch.randn(3, 3, 9, 9)
    torch.testing.assert_close(backend.backbone(x), model.backbone(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["ztw", "additive"])
def test_an_ensemble_that_takes_in_the_head(make, make_model, method):
    torch.manual_seed(0)
    model = make_model(3, method, ensemble_head=True)
    backend = make(model, torch.zeros(1, 3, 9, 9))
    for batch_size in (1, 40):
        check(backend, model, torch.randn(batch_size, 3, 9, 9))
    x = torch.randn(3, 3, 9, 9)
    torch.testing.assert_close(backend.backbone(x), model.backbone(x), atol=1e-4, rtol=1e-4)


def test_unequal_pooling_bins(make, make_model):
    model = make_model(2, "ztw", size=7)
    check(make(model, torch.zeros(1, 3, 7, 7)), model, torch.randn(7, 3, 7, 7))


@pytest.mark.parametrize("by", ["margin", "regret"])
def test_other_rules(make, make_model, by):
    torch.manual_seed(0)
    model = gated(make_model(4)).judged(by)
    x = torch.randn(40, 3, 9, 9)
    bounds = signals(model.answering(), x).quantile(0.5, dim=0)
    wanted = decide(model.answering(), x, Exceeds(bounds)).exits
    assert len(set(wanted.tolist())) == 4
    backend = make(model, x[:1])
    assert backend.predict(x, bounds.tolist()).exits.tolist() == wanted.tolist()
    one_by_one = [backend.predict(x[i : i + 1], bounds.tolist()).exits.item() for i in range(40)]
    assert one_by_one == wanted.tolist()


@pytest.mark.parametrize("n_exits", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_nan_goes_to_the_end(make, make_model, n_exits, batch_size):
    model = make_model(n_exits)
    x = torch.randn(batch_size, 3, 9, 9)
    x[-1, 0, 4, 4] = math.nan
    decision = make(model, x[:1]).predict(x, (0.0,) * (n_exits - 1))
    assert decision.exits[-1] == n_exits - 1
    assert math.isnan(decision.confidences[-1])
    assert (decision.exits[:-1] == 0).all()


@pytest.mark.parametrize("size", [9, 12])
def test_pixels(make, make_model, size):
    model = of_pixels(make_model(3, size=size))
    x = torch.randint(0, 256, (40, 3, size, size), dtype=torch.uint8)
    backend = make(model, x[:1])
    check(backend, model, x)
    check(backend, model, x[:1])
