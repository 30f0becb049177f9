from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ztw_rl import cli, deploy
from ztw_rl.atari.agent import Agent, AgentConfig, build_model, save_agent
from ztw_rl.atari.config import AtariConfig

CURVE = """rule,threshold,return_mean,relative_time,relative_macs
confidence,0.5,-20,0.4,0.4
confidence,0.9,18,0.6,0.5
confidence,0.95,20,0.9,0.8
backbone,,20,1,1
"""


@pytest.fixture
def agent(tmp_path, monkeypatch) -> Path:
    """An agent with random weights and a table, in an otherwise empty current directory."""
    monkeypatch.chdir(tmp_path)
    config = AgentConfig(AtariConfig(), n_actions=6, exits=("conv1", "conv2"), method="ztw")
    torch.manual_seed(0)
    save_agent(tmp_path / "agent", Agent(config, build_model(config)))
    (tmp_path / "agent" / "curve.csv").write_text(CURVE)
    return Path("agent")


needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="the extra onnx is not installed"
)


@needs_onnx
def test_export_and_run(agent, capsys):
    assert cli.main(["export", "--agent", str(agent), "--keep", "0.95"]) == 0
    assert "pong.zip" in capsys.readouterr().out
    model = deploy.load("pong.zip")
    assert model.metadata["thresholds"] == [0.9, 0.9]
    assert model.metadata["labels"][:2] == ["NOOP", "FIRE"]
    assert model.metadata["relative_macs"] == pytest.approx([0.376, 0.676, 1.041], abs=1e-3)
    answer = model.predict(np.zeros((3, 4, 84, 84), np.uint8), threshold=0.0)
    assert answer.exits.tolist() == [0, 0, 0]


def test_bench_writes_its_table(agent, capsys):
    arguments = ["--backends", "eager", "--batch-sizes", "1", "8", "--n-rounds", "3"]
    assert cli.main(["bench", "--agent", str(agent), "--budget", "0.6", *arguments]) == 0
    assert "pays off once" in capsys.readouterr().out
    table = pd.read_csv("runs/bench/pong-001/bench.csv")
    columns = "backend batch_size threads case p50_us p90_us p99_us relative_time relative_macs"
    assert table.columns.tolist() == columns.split()
    assert table["case"].tolist() == ["full", "exit_0", "exit_1", "no_exit", "mix"] * 2
    assert Path("runs/bench/pong-001/bench.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "0.5", "--keep", "0.9"], "exclude one another"),
        (["--budget", "0.1"], "--budget 0.1 is below the lowest cost"),
        (["--keep", "1.5"], "--keep 1.5 needs"),
        (["--keep", "0.9", "--calibration", "nowhere"], "there is no curve.csv"),
        (["--backends", "jit"], "unknown backend 'jit'"),
        (["--batch-sizes", "0"], "batch_sizes must be numbers of at least 1"),
    ],
)
def test_mistakes_are_one_line(agent, capsys, arguments, message):
    assert cli.main(["bench", "--agent", str(agent), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not Path("runs").exists()


def test_choosing_needs_a_calibration_run(agent, capsys):
    (agent / "curve.csv").unlink()
    assert cli.main(["bench", "--agent", str(agent), "--keep", "0.9"]) == 2
    assert "make one with: ztw-rl eval" in capsys.readouterr().err


def test_a_student_has_no_exits_to_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    widths = (17, 34, 34, 305)
    config = AgentConfig(AtariConfig(), 6, (), "student", student_of="conv1", widths=widths)
    save_agent(tmp_path / "s", Agent(config, build_model(config)))
    assert cli.main(["bench", "--agent=s"]) == 2
    assert capsys.readouterr().err.startswith("error: s is a student, without exits to time")


@needs_onnx
@pytest.mark.parametrize("method", ["student", "ztw"])
def test_students_and_exits_on_the_input_are_exported(tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    exits = () if method == "student" else ("input", "conv1")
    config = AgentConfig(AtariConfig(), 6, exits, method, widths=(17, 34, 34, 305))
    if method == "ztw":
        config = AgentConfig(AtariConfig(), 6, exits, method)
    torch.manual_seed(0)
    made = Agent(config, build_model(config).eval())
    save_agent(tmp_path / "a", made, torch.float32)
    assert cli.main(["export", "--agent=a", "--output=a.zip", "--threshold=0"]) == 0
    x = np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84), np.uint8)
    answer = deploy.load("a.zip").predict(x)
    with torch.no_grad():
        wanted = made.model(torch.from_numpy(x))[:, 0].numpy()
    assert (answer.exits == 0).all()
    np.testing.assert_allclose(answer.log_probs, wanted, rtol=1e-4, atol=1e-4)
