"""Online early exit against offline selection on the same network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ztw_rl.core.backends.eager import eager
from ztw_rl.core.exits import Exceeds, Patience, last, most_confident, select
from ztw_rl.core.heads import Connection, MapClassifier, MapConfig
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import Runtime, as_batch, decide
from ztw_rl.errors import UserError

FALLBACKS = [last, most_confident]


def assert_equals_offline(model, x, rule, fallback):
    """What ``decide`` says equals ``select`` on the full network; returns the exits."""
    online = decide(model.answering(), x, rule, fallback)
    with torch.no_grad():
        answers = model(x)
    left_at, answered_by = select(answers, rule, fallback)
    assert online.exits.tolist() == answered_by.tolist()
    wanted = answers[torch.arange(len(x)), answered_by]
    said = torch.from_numpy(online.log_probs)
    torch.testing.assert_close(said, wanted, equal_nan=True)
    return left_at.tolist()


@dataclass(frozen=True)
class Settled:
    """A rule that insists on being where the answers are, as tensors on two devices would."""

    rule: Exceeds
    device: torch.device | None = None

    def to(self, device):
        return Settled(self.rule.to(device), device)

    def leaves(self, answers, signal):
        assert self.device == answers.device
        return self.rule.leaves(answers, signal)

    def rows(self, index):
        assert self.device == index.device
        return Settled(self.rule.rows(index), self.device)


def inputs(n, mlp, generator):
    return torch.randn(n, *((8,) if mlp else (4, 6, 6)), generator=generator) * 2


def test_the_rule_is_where_the_answers_are(make_model):
    model = make_model(n_ics=4)
    generator = torch.Generator().manual_seed(0)
    rule = Settled(Exceeds(torch.rand(64, 4, generator=generator)))
    left = assert_equals_offline(model, inputs(64, False, generator), rule, last)
    assert len(set(left)) > 2


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(
    n_ics=st.sampled_from([0, 1, 4]),
    n=st.sampled_from([0, 1, 7, 64]),
    mlp=st.booleans(),
    method=st.sampled_from(["ztw", "sdn", "additive"]),
    ensemble_head=st.booleans(),
    kind=st.sampled_from(["uniform", "per exit", "per sample", "patience", "patience per sample"]),
    fallback=st.sampled_from(FALLBACKS),
    seed=st.integers(0, 2**16),
)
def test_online_equals_offline(
    make_model, n_ics, n, mlp, method, ensemble_head, kind, fallback, seed
):
    model = make_model(
        n_ics=n_ics, method=method, ensemble_head=ensemble_head, mlp=mlp, seed=seed % 7
    )
    generator = torch.Generator().manual_seed(seed)
    x = inputs(n, mlp, generator)
    rule = {
        "uniform": lambda: Exceeds.uniform(torch.rand((), generator=generator).item(), n_ics + 1),
        "per exit": lambda: Exceeds(torch.rand(n_ics, generator=generator)),
        "per sample": lambda: Exceeds(torch.rand(n, n_ics, generator=generator) * 1.2),
        "patience": lambda: Patience(torch.randint(1, 5, (), generator=generator)),
        "patience per sample": lambda: Patience(torch.randint(1, 6, (n,), generator=generator)),
    }[kind]()
    assert_equals_offline(model, x, rule, fallback)


def test_the_random_networks_use_all_their_exits(make_model):
    """Without this, the test above might compare nothing."""
    model = make_model(n_ics=4)
    x = inputs(64, False, torch.Generator().manual_seed(0))
    left = assert_equals_offline(model, x, Exceeds.uniform(0.8, 5), last)
    assert set(left) == {0, 1, 2, 3, 4}
    left = assert_equals_offline(model, x, Patience(torch.tensor(3)), last)
    assert set(left) == {2, 3, 4}


@pytest.mark.parametrize("fallback", FALLBACKS)
@pytest.mark.parametrize("n", [1, 7, 64])
def test_every_pattern_of_exits(make_model, n, fallback):
    model = make_model(n_ics=4)
    x = inputs(n, False, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    patterns = [torch.full((n,), m) for m in range(5)]
    patterns += [torch.randint(0, 5, (n,), generator=generator) for _ in range(5)]
    for exits in patterns:
        left = assert_equals_offline(model, x, Exceeds.forced(exits, 5), fallback)
        assert left == exits.tolist()


@pytest.mark.parametrize("threshold", [1.0, 1.5])
def test_a_threshold_nobody_exceeds_is_the_backbone_exactly(make_model, threshold):
    model = make_model(n_ics=4)
    x = inputs(64, False, torch.Generator().manual_seed(0))
    decision = decide(model.answering(), x, Exceeds.uniform(threshold, 5))
    with torch.no_grad():
        wanted = torch.log_softmax(model.backbone(x), -1)
    assert torch.equal(torch.from_numpy(decision.log_probs), wanted)
    assert decision.exits.tolist() == [4] * 64


def test_threshold_zero_leaves_at_once(make_model):
    model = make_model(n_ics=4)
    x = inputs(64, False, torch.Generator().manual_seed(0))
    decision = decide(model.answering(), x, Exceeds.uniform(0.0, 5))
    assert decision.exits.tolist() == [0] * 64


def test_who_has_left_is_computed_no_further(make_model):
    model = make_model(n_ics=4)
    exits = torch.tensor([0, 3, 1, 1, 0, 4, 3])
    seen = {"blocks": [], "ics": []}
    for name, parts in (("blocks", model.blocks), ("ics", [ic.linear for ic in model.ics])):
        for part in parts:
            part.register_forward_hook(
                lambda module, args, out, name=name: seen[name].append(len(args[0]))
            )
    model.head.register_forward_hook(lambda module, args, out: seen["blocks"].append(-len(args[0])))
    x = inputs(7, False, torch.Generator().manual_seed(0))
    decide(model.answering(), x, Exceeds.forced(exits, 5))
    assert seen == {"blocks": [7, 5, 3, 3, 1, -1], "ics": [7, 5, 3, 3]}
    seen["blocks"].clear()
    decide(model.answering(), x, Exceeds.forced(torch.zeros(7, dtype=torch.long), 5))
    assert seen["blocks"] == [7]


def test_nan_runs_to_the_end(make_model):
    model = make_model(n_ics=2)
    x = inputs(7, False, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.ics[0].conv.bias.fill_(float("nan"))
    # The cascade and the ensemble hand the NaN on; the backbone's own head is clean.
    rule = Exceeds(torch.full((2,), -torch.inf))
    for fallback in FALLBACKS:
        decision = decide(model.answering(), x, rule, fallback)
        assert decision.exits.tolist() == [2] * 7
        wanted = torch.log_softmax(model.backbone(x), -1)
        assert torch.equal(torch.from_numpy(decision.log_probs), wanted)
    assert decide(model.answering(), x, Patience(torch.tensor(1))).exits.tolist() == [2] * 7


def test_one_broken_sample_does_not_touch_the_others(make_model):
    model = make_model(n_ics=2)
    x = inputs(7, False, torch.Generator().manual_seed(0))
    x[3] = float("nan")
    assert assert_equals_offline(model, x, Exceeds.uniform(0.0, 3), last) == [
        *[0, 0, 0],
        2,
        *[0, 0, 0],
    ]


def test_the_mixture_by_hand():
    """Exit 0 says the input's first half, the head its second half."""

    class Half(nn.Module):
        def __init__(self, half):
            super().__init__()
            self.half = half

        def forward(self, x):
            return x[:, 2 * self.half : 2 * self.half + 2, 0, 0]

    ic = MapClassifier(MapConfig(4, (1, 1), 1), Connection(2, cascade=False))
    ic.pooled = lambda features: Half(0)(features)
    ic.answer = lambda pooled, previous: pooled
    model = EarlyExitModel([nn.Identity()], Half(1), [ic], [1]).eval()
    p = torch.tensor([[0.9, 0.1, 0.3, 0.7], [0.6, 0.4, 0.2, 0.8], [0.2, 0.8, 0.5, 0.5]])
    decision = decide(model.answering(), p.log()[..., None, None], Exceeds.uniform(0.7, 2))
    assert decision.exits.tolist() == [0, 1, 0]
    wanted = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    torch.testing.assert_close(torch.from_numpy(decision.log_probs).exp(), wanted)


SHAPE = (4, 6, 5)


def as_frames(x):
    return as_batch(x, SHAPE, torch.uint8)


@pytest.mark.parametrize("kind", [lambda x: x, torch.from_numpy, lambda x: x.tolist()])
def test_one_or_a_batch_with_channels_first_or_last(kind):
    x = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)
    if kind(x) is not x and isinstance(kind(x), list):
        # Lists have no type of their own.
        batch, _ = as_batch(kind(x), SHAPE, torch.int64)
        assert batch.tolist() == x.tolist()
        return
    for held, single, wanted in (
        (x, False, x),
        (x[1], True, x[1:2]),
        (x.transpose(0, 2, 3, 1).copy(), False, x),
        (x[1].transpose(1, 2, 0).copy(), True, x[1:2]),
        (x[:0], False, x[:0]),
    ):
        batch, is_single = as_frames(kind(held))
        assert is_single == single
        assert batch.is_contiguous()
        np.testing.assert_array_equal(batch.numpy(), wanted)


def test_memory_that_torch_does_not_take():
    x = np.zeros(SHAPE, np.uint8)
    x.flags.writeable = False
    assert as_frames(x)[0].shape == (1, *SHAPE)
    other = np.arange(3).astype(">f4")
    assert as_batch(other, (3,), torch.float32)[0].tolist() == [[0, 1, 2]]


def test_vectors_have_one_layout():
    batch, single = as_batch(np.zeros(3, np.float32), (3,), torch.float32)
    assert (tuple(batch.shape), single) == ((1, 3), True)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(SHAPE), r"is float64 \(4, 6, 5\), but the model takes uint8 \(4, 6, 5\) or"),
        (np.zeros((3, 6, 5), np.uint8), r"is uint8 \(3, 6, 5\), but .* or \(6, 5, 4\), one or a"),
        (np.zeros((6, 5), np.uint8), r"is uint8 \(6, 5\), but"),
        ({"pixels": 1}, "not a dictionary"),
        ([[1], [2, 3]], "is no array of numbers"),
        (np.array(["a"]), "is no array of numbers"),
        (3, r"is int64 \(\), but"),
    ],
)
def test_what_does_not_fit_is_named(x, message):
    with pytest.raises(UserError, match=message):
        as_frames(x)


@pytest.fixture
def model() -> EarlyExitModel:
    """A backbone without any IC."""
    return EarlyExitModel([nn.Flatten()], nn.Linear(4, 3), ics=[], attach=[]).eval()


def test_predicts(model):
    x = torch.randn(5, 2, 2)
    prediction = Runtime(eager(model), x[:1], 0.5).predict(x)
    assert prediction.exits.tolist() == [0] * 5
    assert prediction.labels.tolist() == model.backbone(x).argmax(dim=-1).tolist()


@pytest.mark.parametrize(
    "x", [torch.zeros(1, 2, 3), torch.zeros(1, 2, 2, dtype=torch.uint8), torch.zeros(2, 2)]
)
def test_bad_input(model, x):
    runtime = Runtime(eager(model), torch.zeros(1, 2, 2), 0.5)
    with pytest.raises(UserError, match=r"the model takes torch.float32 \(B, 2, 2\)"):
        runtime.predict(x)


def test_too_many_thresholds(model):
    with pytest.raises(UserError, match="0 thresholds are needed, not 2"):
        Runtime(eager(model), torch.zeros(1, 2, 2), [0.5, 0.5])


@pytest.mark.parametrize(
    "threshold",
    [0.3, np.float32(0.3), np.array(0.3), np.array([0.3]), [np.float32(0.3)], torch.tensor(0.3)],
    ids=["float", "float32", "0-d", "1-d", "list", "tensor"],
)
def test_thresholds_as_arrays(make_model, threshold):
    runtime = Runtime(eager(make_model(n_ics=1)), torch.zeros(1, 4, 6, 6), threshold)
    assert runtime.bounds == (np.float32(0.3).item(),)
