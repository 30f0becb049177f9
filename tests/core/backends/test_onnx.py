from __future__ import annotations

import contextlib
import json
import math
import sys
import zipfile

import numpy as np
import pytest
import torch
from onnx import load_from_string
from torch import nn

from ztw_rl import deploy
from ztw_rl.core.backends.onnx import export_graphs, onnx
from ztw_rl.core.deployable import export_stages
from ztw_rl.core.exits import Exceeds, Patience, most_confident, select
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import decide
from ztw_rl.errors import UserError

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


def test_a_layer_far_behind_the_input_that_needs_the_size_of_the_batch(make_model):
    model = make_model(3)
    head = Appends(4 * 9 * 9, 5)
    model = EarlyExitModel(model.blocks, head, model.ics, model.attach, model.ensemble)
    model = model.eval().requires_grad_(False)
    x = torch.randn(40, 3, 9, 9)
    backend = onnx(model, x[:1])
    check(backend, model, x)
    check(backend, model, x[:1])
    torch.testing.assert_close(backend.backbone(x), model.backbone(x))


@pytest.mark.parametrize(
    ("method", "ensemble_head"),
    [("sdn", False), ("ztw", False), ("ztw", True), ("additive", False), ("additive", True)],
)
def test_its_segments_serve_any_rule(make_model, method, ensemble_head):
    torch.manual_seed(0)
    model = make_model(4, method, ensemble_head=ensemble_head)
    x = torch.randn(64, 3, 9, 9)
    segments, answers, found = onnx(model, x[:1]).segments, model(x), set()
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


def test_the_stage_of_a_network_without_ics(make_model):
    torch.manual_seed(0)
    model, x = make_model(1), torch.randn(5, 3, 9, 9)
    decision = decide(onnx(model, x[:1]).segments, x, Exceeds.uniform(0.5, 1))
    torch.testing.assert_close(
        torch.from_numpy(decision.log_probs), model(x)[:, 0], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("method", "n_exits"),
    [("ztw", 1), ("sdn", 2), ("cascade", 5), ("ztw", 5), ("additive", 2), ("ztw", 27)],
)
def test_equals_the_offline_selection(make_model, method, n_exits):
    torch.manual_seed(0)
    model = make_model(n_exits, method)
    backend = onnx(model, torch.zeros(1, 3, 9, 9))
    for batch_size in (0, 1, 7, 256):
        check(backend, model, torch.randn(batch_size, 3, 9, 9))
    x = torch.randn(3, 3, 9, 9)
    torch.testing.assert_close(backend.backbone(x), model.backbone(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["ztw", "additive"])
def test_an_ensemble_that_takes_in_the_head(make_model, method):
    torch.manual_seed(0)
    model = make_model(3, method, ensemble_head=True)
    backend = onnx(model, torch.zeros(1, 3, 9, 9))
    for batch_size in (1, 40):
        check(backend, model, torch.randn(batch_size, 3, 9, 9))
    x = torch.randn(3, 3, 9, 9)
    torch.testing.assert_close(backend.backbone(x), model.backbone(x), atol=1e-4, rtol=1e-4)


def test_unequal_pooling_bins(make_model):
    model = make_model(2, "ztw", size=7)
    check(onnx(model, torch.zeros(1, 3, 7, 7)), model, torch.randn(7, 3, 7, 7))


def test_pixels_are_scaled_by_the_first_convolution(make_model):
    class Scale(nn.Module):
        def forward(self, x):
            return x.float() / 255

    plain = make_model(3)
    blocks = [nn.Sequential(Scale(), plain.blocks[0]), *plain.blocks[1:]]
    model = EarlyExitModel(blocks, plain.head, plain.ics, plain.attach, plain.ensemble).eval()
    x = torch.randint(0, 256, (40, 3, 9, 9), dtype=torch.uint8)
    graph = load_from_string(export_graphs(model, x[:1]).exits[0]).graph
    assert not any(node.op_type == "Div" for node in graph.node)
    check(onnx(model, x[:1]), model, x)


@pytest.fixture
def artefact(make_model, tmp_path):
    path = tmp_path / "model.zip"
    export_stages(path, make_model(3), torch.zeros(1, 3, 9, 9), [0.5, 0.5], {"labels": ["a"]})
    return path


def test_artefact_runs_without_torch(artefact, make_model, without_torch):
    x = torch.randn(7, 3, 9, 9)
    answers = make_model(3)(x)
    exits, _ = select(answers, Exceeds.uniform(0.5, 3))
    labels = answers[torch.arange(7), exits].argmax(dim=-1)
    assert without_torch(artefact, x) == [labels.tolist(), exits.tolist(), ["a"]]


def test_nothing_leaves_early_on_nan(artefact):
    model = deploy.load(artefact)
    for batch_size in (1, 3):
        x = np.zeros((batch_size, 3, 9, 9), np.float32)
        x[-1] = math.nan
        assert model.predict(x, 0.0).exits[-1] == 2


@pytest.mark.parametrize(
    ("x", "threshold", "message"),
    [
        (np.zeros((1, 3, 9, 8), np.float32), 0.5, r"float32 \(1, 3, 9, 8\).* float32 \(B, 3, 9, 9"),
        (np.zeros((1, 3, 9, 9), np.uint8), 0.5, r"input is uint8"),
        (np.zeros((1, 3, 9, 9), np.float32), [0.5], "2 thresholds are needed, not 1"),
    ],
)
def test_bad_input(artefact, x, threshold, message):
    with pytest.raises(UserError, match=message):
        deploy.load(artefact).predict(x, threshold)


def test_artefacts_that_cannot_be_used(artefact):
    whole = artefact.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no zip"):
        artefact.write_bytes(damaged)
        with pytest.raises(UserError, match=r"is damaged .*; export it again"):
            deploy.load(artefact)
    with zipfile.ZipFile(artefact, "w") as archive:
        archive.writestr("metadata.json", '{"format": 99, "kind": "onnx"}')
    with pytest.raises(UserError, match="no ONNX artefact of format 1"):
        deploy.load(artefact)
    with pytest.raises(UserError, match="does not exist; make it with: ztw-rl export"):
        deploy.load(artefact.with_name("other.zip"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, None) for name in ("input_shape", "input_dtype", "n_classes", "thresholds")),
        ("head_is_ensembled", None),
        ("input_shape", 3),
        ("input_dtype", "float99"),
        ("n_classes", "many"),
        ("n_exits", 0),
        ("thresholds", [0.5, 0.5, 0.5]),
        ("thresholds", "high"),
    ],
)
def test_metadata_that_cannot_be_used(artefact, name, value):
    with zipfile.ZipFile(artefact) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    metadata = json.loads(files["metadata.json"])
    del metadata[name]
    if value is not None:
        metadata[name] = value
    with zipfile.ZipFile(artefact, "w") as archive:
        for entry, content in {**files, "metadata.json": json.dumps(metadata)}.items():
            archive.writestr(entry, content)
    with pytest.raises(UserError, match=r"model\.zip is damaged \(metadata\.json: .*; export it"):
        deploy.load(artefact)


def test_damage_anywhere_is_one_line(artefact):
    whole = bytearray(artefact.read_bytes())
    rng = np.random.default_rng(0)
    # The directory at the end, and the first entry's header.
    places = [*range(len(whole) - 400, len(whole)), *range(40)]
    for place in rng.choice(places, 150, replace=False):
        damaged = whole.copy()
        damaged[place] ^= 1 << rng.integers(8)
        artefact.write_bytes(damaged)
        with contextlib.suppress(UserError):
            deploy.load(artefact)


@pytest.mark.parametrize(
    "threshold",
    [np.float32(0.5), np.float64(0.5), np.array(0.5), np.array([0.5, 0.5]), torch.tensor(0.5)],
    ids=["float32", "float64", "0-d", "1-d", "tensor"],
)
def test_thresholds_as_arrays(artefact, threshold):
    x = np.random.default_rng(0).normal(size=(7, 3, 9, 9)).astype(np.float32)
    model = deploy.load(artefact)
    wanted = model.predict(x, 0.5).exits.tolist()
    assert model.predict(x, threshold).exits.tolist() == wanted
    assert model.predict(x).exits.tolist() == wanted


def test_missing_packages(artefact, make_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime is missing; pip install 'ztw-rl\[onnx\]'"):
        deploy.load(artefact)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx is missing; pip install 'ztw-rl\[onnx\]'"):
        onnx(make_model(2), torch.zeros(1, 3, 9, 9))
