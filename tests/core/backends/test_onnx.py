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

from tests.networks import of_pixels
from ztw_rl import deploy
from ztw_rl.core.backends.onnx import export_graphs, onnx
from ztw_rl.core.deployable import export_stages
from ztw_rl.core.exits import Exceeds, select
from ztw_rl.errors import UserError


def test_pixels_are_scaled_by_the_first_convolution(make_model):
    model = of_pixels(make_model(3))
    graph = load_from_string(export_graphs(model, torch.zeros(1, 3, 9, 9).byte()).exits[0]).graph
    assert not any(node.op_type == "Div" for node in graph.node)


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
