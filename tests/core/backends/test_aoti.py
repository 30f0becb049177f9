from __future__ import annotations

import json
import math
import os
import shutil
import zipfile

import pytest
import torch

from ztw_rl import deploy
from ztw_rl.core.backends import aoti
from ztw_rl.core.deployable import export_aoti
from ztw_rl.core.exits import Exceeds, select
from ztw_rl.errors import UserError

HAS_COMPILER = shutil.which(os.environ.get("CXX", "g++")) is not None
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Where an artefact is put by the first test that needs it: compiling takes a while."""
    return tmp_path_factory.mktemp("compiled") / "model.zip"


@pytest.fixture
def artefact(make_model, compiled, tmp_path):
    if not HAS_COMPILER:
        pytest.skip("there is no C++ compiler")
    model = make_model(2)
    if not compiled.exists():
        export_aoti(compiled, model, torch.zeros(1, 3, 9, 9), [0.5], {"labels": ["a"]})
    shutil.copy(compiled, tmp_path / "model.zip")
    return tmp_path / "model.zip", model


def test_equals_the_offline_selection(artefact):
    path, model = artefact
    runner = aoti.load(path)
    assert runner.metadata["labels"] == ["a"]
    for batch_size in (0, 1, 7, 256):
        x = torch.randn(batch_size, 3, 9, 9)
        answers = model(x)
        for threshold in (0.0, None, 0.8, 1.5):
            tau = 0.5 if threshold is None else threshold
            exits, _ = select(answers, Exceeds.uniform(tau, 2))
            prediction = runner.predict(x, threshold)
            assert prediction.exits.tolist() == exits.tolist()
            expected = answers[torch.arange(batch_size), exits]
            torch.testing.assert_close(
                torch.from_numpy(prediction.log_probs), expected, atol=1e-4, rtol=0
            )
    x = torch.full((3, 3, 9, 9), math.nan)
    assert runner.predict(x, 0.0).exits.tolist() == [1, 1, 1]
    with pytest.raises(UserError, match=r"the model takes torch.float32 \(B, 3, 9, 9\)"):
        runner.predict(torch.zeros(0, 3, 9, 8))
    with pytest.raises(UserError, match="1 thresholds are needed, not 2"):
        runner.predict(x, [0.5, 0.5])


def test_artefacts_that_cannot_be_used(artefact):
    path, _ = artefact
    with pytest.raises(UserError, match="no ONNX artefact"):
        deploy.load(path)
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read("metadata.json"))
        packages = {aoti.package_file(m): archive.read(aoti.package_file(m)) for m in range(2)}
    for name, value in (
        *((name, None) for name in ("input_shape", "input_dtype", "thresholds")),
        ("input_dtype", "float99"),
        ("input_shape", "wide"),
        ("thresholds", [0.5, 0.5]),
    ):
        changed = {key: v for key, v in {**metadata, name: value}.items() if v is not None}
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps(changed))
            for file, package in packages.items():
                archive.writestr(file, package)
        with pytest.raises(UserError, match=r"is damaged \(metadata\.json: .*; export it again"):
            aoti.load(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"is damaged .*; export it again"):
        aoti.load(path)
    for change, message in (
        ({"kind": "onnx"}, "no AOTInductor artefact"),
        ({"torch": "1.0"}, "was compiled with PyTorch 1.0"),
        ({}, "is damaged"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({**metadata, **change}))
        with pytest.raises(UserError, match=message):
            aoti.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps(metadata))
        for m in range(2):
            archive.writestr(aoti.package_file(m), b"no code")
    with pytest.raises(UserError, match="cannot be run here"):
        aoti.load(path)
    with pytest.raises(UserError, match="does not exist"):
        aoti.load(path.with_name("other.zip"))


def test_no_compiler(make_model, monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"no C.. compiler .* use the format onnx"):
        export_aoti(tmp_path / "a.zip", make_model(2), torch.zeros(1, 3, 9, 9), [0.5], {})
    assert not list(tmp_path.iterdir())
