from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import ztw_rl
from ztw_rl import cli, deploy, runs
from ztw_rl.core import bench
from ztw_rl.core.backends import aoti
from ztw_rl.core.exits import Exceeds
from ztw_rl.core.model import METHODS
from ztw_rl.core.runtime import decide
from ztw_rl.decision import bound
from ztw_rl.points.classifier import ClassifierPoint, choose
from ztw_rl.supervised.backbones.base import NormalizePixels
from ztw_rl.supervised.backbones.registry import build_backbone, early_exit
from ztw_rl.supervised.classifier import (
    Classifier,
    ClassifierConfig,
    load_classifier,
    save_classifier,
)
from ztw_rl.supervised.config import DataConfig, ICRun, ICTraining, PixelConfig
from ztw_rl.supervised.data.datasets import class_names, open_source

RUN = "runs/ics/resnet56-digits-ztw-001"
CPU = torch.device("cpu")


def _measure_statistics(backbone: nn.Module, run: ICRun) -> None:
    """Without the images' own mean and deviation, features grow from block to block."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    images = next(open_source(run.data, "train", CPU).plain(64)).images
    with torch.no_grad():
        backbone.train()(NormalizePixels(run.pixels.mean, run.pixels.std)(images))


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """Leaves a classifier of two ICs and random weights in an otherwise empty current folder."""
    monkeypatch.chdir(tmp_path)

    def make(selected_on: str = "held_out", gates: bool = True) -> Path:
        run = ICRun(
            arch="resnet56",
            method="ztw",
            seed=0,
            backbone="backbone.pt",
            ics=None,
            selected_on=selected_on,
            data=DataConfig("digits", n_train=200, n_test=60),
            pixels=PixelConfig(),
            training=ICTraining(n_ics=2, gates=gates),
        )
        torch.manual_seed(0)
        backbone = build_backbone("resnet56", 10, 32)
        _measure_statistics(backbone, run)
        model = early_exit(
            backbone,
            "resnet56",
            METHODS["ztw"],
            n_classes=10,
            pixels=run.pixels,
            n_ics=2,
            gates=("regret",) if gates else (),
        )
        for name in model.gates:
            for gate in model.gates_of(name):
                nn.init.normal_(gate.out.weight)
        config = ClassifierConfig(10, run, class_names(run.data))
        save_classifier(Path(RUN) / "classifier", Classifier(config, model))
        runs.save_config(Path(RUN), run)
        return Path(RUN)

    return make


def test_an_exported_classifier_answers_pixels_as_the_model_does(make_run, capsys):
    classifier = load_classifier(make_run())
    assert cli.main(["supervised", "export", "--budget=0.7", "--device=cpu"]) == 0
    out = capsys.readouterr().out
    deployed = deploy.load("resnet56-digits.onnx")
    (threshold, again) = deployed.metadata["thresholds"]
    assert threshold == again
    assert deployed.metadata["labels"] == list("0123456789")
    assert deployed.metadata["exits"] == ["ic_0", "ic_1", "backbone"]
    assert deployed.metadata["relative_macs"] == list(classifier.relative_macs())
    (batch,) = open_source(classifier.config.run.data, "test", CPU).plain(60)
    for tau in (threshold, 0.0, 1.0):
        answer = deployed.predict(batch.images.numpy(), tau)
        wanted = decide(classifier.model.answering(), batch.images, Exceeds.uniform(tau, 3))
        assert answer.exits.tolist() == wanted.exits.tolist()
        np.testing.assert_allclose(answer.log_probs, wanted.log_probs, atol=1e-4)
    # What is said of the choice is what it does to the test images.
    answer = deployed.predict(batch.images.numpy())
    costs = np.array(deployed.metadata["relative_macs"])[answer.exits]
    right = (answer.labels == batch.labels.numpy()).mean()
    chosen = deployed.metadata["threshold_chosen_for"]
    assert chosen["expected_cost"] == pytest.approx(costs.mean())
    assert chosen["expected_accuracy"] == pytest.approx(right)
    assert 0 < chosen.pop("expected_disagreement") < 1
    assert {k: v for k, v in chosen.items() if not k.startswith("expected_")} == {
        "budget": 0.7,
        "cost_counts": "macs",
        "n_images": 20,
        "selected_on": "held_out",
    }
    assert f"threshold {threshold:g} chosen on all 20 held-out training images" in out
    assert f"tried on 60 test images: {right:.2%} right" in out


def test_a_file_judges_by_the_rule_that_was_asked_for(make_run, capsys):
    path, rule = make_run(), "gate"
    assert cli.main(["supervised", "export", "--rule=gate", "--budget=0.7", "--device=cpu"]) == 0
    out = capsys.readouterr().out
    deployed = deploy.load("resnet56-digits.onnx")
    assert deployed.metadata["rule"] == rule
    classifier = load_classifier(path).judged(rule)
    assert deployed.metadata["relative_macs"] == list(classifier.relative_macs())
    thresholds = deployed.metadata["thresholds"]
    bounds = torch.tensor([bound(rule, each) for each in thresholds])
    (batch,) = open_source(classifier.config.run.data, "test", CPU).plain(60)
    wanted = decide(classifier.model.answering(), batch.images, Exceeds(bounds))
    answer = deployed.predict(batch.images.numpy())
    assert answer.exits.tolist() == wanted.exits.tolist()
    assert len(set(answer.exits.tolist())) > 1
    right = (answer.labels == batch.labels.numpy()).mean()
    assert f"tried on 60 test images: {right:.2%} right" in out


def test_a_classifier_without_gates(make_run, capsys):
    make_run(gates=False)
    assert cli.main(["supervised", "export", "--rule=gate", "--budget=0.7", "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: {RUN} has no gates; train-ics fits them, without --no-gates\n"


def test_the_public_face(make_run, monkeypatch):
    path = make_run()
    (batch,) = open_source(load_classifier(path).config.run.data, "test", CPU).plain(60)
    found = ztw_rl.load(path, budget=0.7)
    assert repr(found).startswith("EarlyExit('resnet56-digits'): ")
    assert "tried on 60 test images" in repr(found)
    images = batch.images.numpy()
    labels = found.decide(images).labels
    # A classifier does not sample.
    assert found.predict(images)[0].tolist() == labels.tolist()
    assert found.decide(images[0].transpose(1, 2, 0)).labels == labels[0]
    found.export("digits.zip")
    again = ztw_rl.load("digits.zip")
    assert again.predict(images)[0].tolist() == labels.tolist()
    assert again.labels == found.labels == list("0123456789")
    monkeypatch.chdir(path)
    assert ztw_rl.load(".").name == ztw_rl.load("classifier").name == "resnet56-digits"


def test_a_threshold_is_chosen_for_each_target(make_run, monkeypatch):
    quick = functools.partial(bench.time_exits, n_rounds=3, n_warmup=1)
    monkeypatch.setattr(bench, "time_exits", quick)
    path = make_run("cross_fit")
    classifier = load_classifier(path)

    def chosen(**target):
        return choose(ClassifierPoint(device="cpu", **target), classifier, path)

    assert chosen().each(2) == [0.9, 0.9]
    assert chosen(threshold=0.3).each(2) == [0.3, 0.3]
    budget = chosen(budget=0.7)
    assert "chosen on all 60 test images" in budget.reasons[0]
    assert "chosen on one half of them and tried on the other" in budget.reasons[1]
    assert budget.record["selected_on"] == "cross_fit"
    own = chosen(budget=0.7, per_exit=True)
    assert len(own.point.value) == 2
    assert str(own).startswith("thresholds ")
    # Random exits contradict the backbone in nine of ten cases.
    risky = chosen(risk=0.99, confidence=0.6)
    assert "with confidence 0.6, at most 99.0% of images" in risky.reasons[1]
    assert risky.record["risk"] == 0.99
    timed = chosen(budget=3, cost="time", cost_backend="eager")
    assert "of the time" in timed.reasons[1]
    assert timed.record["cost_counts"] == "time"


@pytest.mark.parametrize("command", ["export", "bench"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold=0.5", "--keep=0.9"], "exclude one another"),
        (["--threshold=inf"], "--threshold must be between 0 and 1, not inf"),
        (["--per-exit"], "--per-exit needs --budget"),
        (["--per-exit", "--keep=0.9"], "--per-exit needs --budget"),
        (["--rule=gate", "--threshold=0.5"], "--rule gate needs --budget, --keep or --risk"),
        (["--budget=0.01"], f"{RUN}: --budget 0.01 is below the lowest cost"),
        (["--budget=0.01", "--per-exit"], f"{RUN}: --budget 0.01 is below the lowest cost"),
        (["--keep=9"], f"{RUN}: --keep 9 needs a score of"),
        (["--keep=95"], "--keep must be above 0 and at most 10, not 95: it is a share"),
        (["--risk=0.01"], f"{RUN}: --risk 0.01 cannot be shown by 20 images"),
        (["--budget=0.5", "--cost=time", "--cost-backend=jit"], "unknown backend 'jit'"),
        (["--budget=0.5", "--n-test=1"], "n_test must be at least 2"),
        (["--model=nowhere"], "nowhere holds no classifier.json"),
    ],
)
def test_mistakes_are_one_line(make_run, capsys, command, arguments, message):
    make_run()
    assert cli.main(["supervised", command, "--device=cpu", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert message in error
    assert not list(Path().glob("*.onnx"))
    assert not Path("runs/bench").exists()


def test_no_run_of_train_ics(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in ("export", "bench"):
        assert cli.main(["supervised", command]) == 2
        assert "there is no run in runs/ics; begin with" in capsys.readouterr().err


def test_bench_writes_its_table(make_run, capsys):
    make_run("cross_fit")
    small = ["--backends=eager", "--batch-sizes", "1", "4", "--n-rounds=1", "--n-test=8"]
    command = ["supervised", "bench", f"--model={RUN}", "--budget=0.7", "--device=cpu", *small]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "pays off once" in out
    assert "chosen on all 8 test images" in out
    folder = Path("runs/bench/resnet56-digits-001")
    table = pd.read_csv(folder / "bench.csv")
    assert table["case"].tolist() == ["full", "exit_0", "exit_1", "no_exit", "mix"] * 2
    assert json.loads((folder / "config.json").read_text())["model"] == RUN
    assert (folder / "bench.png").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler"
)
def test_stages_compiled_ahead_of_time(make_run):
    classifier = load_classifier(make_run())
    assert cli.main(["supervised", "export", "--format=aoti", "--threshold=0.2"]) == 0
    (batch,) = open_source(classifier.config.run.data, "test", CPU).plain(60)
    answer = aoti.load("resnet56-digits.zip").predict(batch.images)
    wanted = decide(classifier.model.answering(), batch.images, Exceeds.uniform(0.2, 3))
    assert answer.exits.tolist() == wanted.exits.tolist()
    np.testing.assert_allclose(answer.log_probs, wanted.log_probs, atol=1e-4, rtol=1e-4)
