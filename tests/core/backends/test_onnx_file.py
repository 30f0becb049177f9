from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import load_model, save_model

from tests.networks import gated
from ztw_rl import deploy
from ztw_rl.core.backends.onnx_file import one_graph
from ztw_rl.core.deployable import export_onnx
from ztw_rl.core.exits import Exceeds, select
from ztw_rl.core.runtime import decide, signals
from ztw_rl.decision import bound
from ztw_rl.errors import UserError


def session_of(model, x, noun="label"):
    """Plain ONNX Runtime, without code of ours."""
    return onnxruntime.InferenceSession(
        one_graph(model, x, noun, {"a": 1}), providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("ensemble_head", [False, True])
@pytest.mark.parametrize("method", ["ztw", "sdn", "cascade", "ensemble", "additive"])
@pytest.mark.parametrize("n_exits", [1, 2, 3, 5])
def test_equals_the_offline_selection(make_model, method, n_exits, ensemble_head):
    torch.manual_seed(0)
    model = make_model(n_exits, method, ensemble_head=ensemble_head)
    x = torch.randn(12, 3, 9, 9)
    x[5, 0, 0, 0] = math.nan
    session = session_of(model, x[:1])
    answers = model(x)
    for threshold in (0.0, 0.5, 0.8, 1.5):
        exits, _ = select(answers, Exceeds.uniform(threshold, n_exits))
        thresholds = np.full(n_exits - 1, threshold, np.float32)
        for i in range(len(x)):
            feed = {"x": x[i : i + 1].numpy(), "thresholds": thresholds}
            label, left_at, confidence, log_probs = session.run(None, feed)
            wanted = answers[i, exits[i]]
            assert left_at.tolist() == [exits[i]]
            if i == 5:
                assert left_at.tolist() == [n_exits - 1]
                assert np.isnan(log_probs).all()
                continue
            assert label.tolist() == [wanted.argmax()]
            np.testing.assert_allclose(log_probs[0], wanted, atol=1e-4)
            np.testing.assert_allclose(confidence, np.exp(log_probs.max(axis=1)), rtol=1e-5)


@pytest.mark.parametrize("by", ["margin", "regret"])
def test_other_rules(make_model, by):
    torch.manual_seed(0)
    model = gated(make_model(4)).judged(by)
    x = torch.randn(40, 3, 9, 9)
    found = signals(model.answering(), x)
    bounds = found.quantile(0.5, dim=0)
    wanted = decide(model.answering(), x, Exceeds(bounds)).exits
    assert len(set(wanted.tolist())) == 4
    session = session_of(model, x[:1])
    # What is given is a regret, not its negative.
    thresholds = np.array([bound(model.rule, each) for each in bounds.tolist()], np.float32)
    for i in range(40):
        (left_at,) = session.run(["exit"], {"x": x[i : i + 1].numpy(), "thresholds": thresholds})
        assert left_at.tolist() == [wanted[i]]


def test_what_it_says_of_itself(make_model):
    session = session_of(make_model(3), torch.zeros(1, 3, 9, 9), "action")
    inputs = {i.name: (i.shape, i.type) for i in session.get_inputs()}
    assert inputs == {"x": ([1, 3, 9, 9], "tensor(float)"), "thresholds": ([2], "tensor(float)")}
    outputs = {o.name: (o.shape, o.type) for o in session.get_outputs()}
    assert outputs == {
        "action": ([1], "tensor(int64)"),
        "exit": ([1], "tensor(int64)"),
        "confidence": ([1], "tensor(float)"),
        "log_probs": ([1, 5], "tensor(float)"),
    }
    assert json.loads(session.get_modelmeta().custom_metadata_map["ztw_rl"]) == {"a": 1}


def test_what_has_answered_runs_no_further(make_model, tmp_path):
    model, x = make_model(3), torch.zeros(1, 3, 9, 9)
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    graph = one_graph(model, x, "label", {})
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": x.numpy(), "thresholds": np.zeros(2, np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    convolutions = {
        event["name"]
        for event in events
        if event.get("args", {}).get("op_name", "").endswith("Conv") and "kernel" in event["name"]
    }
    # The trunk's first, and no other block's.
    assert 1 <= len(convolutions) <= 2


@pytest.fixture
def file(make_model, tmp_path):
    path = tmp_path / "model.onnx"
    about = {"labels": ["a"], "answer": "label"}
    export_onnx(path, make_model(3), torch.zeros(1, 3, 9, 9), [0.5, 0.6], about)
    return path


def test_a_file_runs_without_torch(file, make_model, without_torch):
    x = torch.randn(7, 3, 9, 9)
    answers = make_model(3)(x)
    exits, _ = select(answers, Exceeds(torch.tensor([0.5, 0.6])))
    labels = answers[torch.arange(7), exits].argmax(dim=-1)
    assert without_torch(file, x) == [labels.tolist(), exits.tolist(), ["a"]]


def test_batches_and_bad_input(file):
    model = deploy.load(file)
    assert (model.n_exits, model.rule) == (3, "confidence")
    none = model.predict(np.zeros((0, 3, 9, 9), np.float32))
    assert (len(none.labels), none.log_probs.shape) == (0, (0, 5))
    x = np.random.default_rng(0).normal(size=(5, 3, 9, 9)).astype(np.float32)
    each = [model.predict(x[i : i + 1], 0.7) for i in range(5)]
    together = model.predict(x, 0.7)
    assert together.exits.tolist() == [one.exits.item() for one in each]
    assert together.labels.tolist() == [one.labels.item() for one in each]
    with pytest.raises(UserError, match="2 thresholds are needed, not 1"):
        model.predict(x, [0.5])
    with pytest.raises(UserError, match="the input is uint8"):
        model.predict(x.astype(np.uint8))


def test_files_that_cannot_be_used(file):
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no graph"):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="export it again"):
            deploy.load(file)
    assert deploy.kind_of(file) is None
    file.write_bytes(whole.replace(b'"onnx-file"', b'"onnx-fila"'))
    with pytest.raises(UserError, match="is no ONNX file of format 1"):
        deploy.load(file)


@pytest.mark.parametrize(
    ("name", "value"), [("n_classes", None), ("thresholds", [0.5]), ("input_shape", 3)]
)
def test_metadata_that_cannot_be_used(file, name, value):
    model = load_model(file)
    (found,) = model.metadata_props
    metadata = json.loads(found.value)
    del metadata[name]
    if value is not None:
        metadata[name] = value
    found.value = json.dumps(metadata)
    save_model(model, file)
    with pytest.raises(UserError, match=r"model\.onnx is damaged \(metadata: .*; export it again"):
        deploy.load(file)


@pytest.mark.parametrize(
    ("name", "wanted", "found"),
    [
        ("a.onnx", None, "onnx"),
        ("a.zip", None, "onnx-stages"),
        ("a.ZIP", "onnx-stages", "onnx-stages"),
        ("a.zip", "aoti", "aoti"),
        ("a.tflite", None, "litert"),
    ],
)
def test_the_suffix_decides(tmp_path, name, wanted, found):
    assert deploy.format_of(tmp_path / name, wanted) == found


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("a.pt", None, "must end in .onnx, in .zip for one graph per exit, or in .tflite"),
        ("a.zip", "onnx", "the format onnx is written to a .onnx file, not to"),
        ("a.onnx", "aoti", "the format aoti is written to a .zip file, not to"),
    ],
)
def test_a_suffix_that_does_not_fit(tmp_path, name, wanted, message):
    with pytest.raises(UserError, match=message):
        deploy.format_of(tmp_path / name, wanted)
