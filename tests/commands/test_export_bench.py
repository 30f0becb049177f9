from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ztw_rl import cli, deploy
from ztw_rl.core.backends import engines
from ztw_rl.core.backends.openvino import openvino
from ztw_rl.rl.agent import Agent, AgentConfig, build_model, save_agent
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.networks.config import NetworkConfig


def line(rule, threshold, returns, macs, **more):
    """A row of curve.json, as far as thresholds are chosen from it."""
    n = len(returns)
    costs = {"decisions": [9] * n, "macs": [macs] * n, "time": [macs + 0.1] * n}
    return {"rule": rule, "threshold": threshold, "returns": returns, **costs, **more}


ROWS = [
    # Alone, the even games keep 95 % at 0.5 already, and the odd ones need 0.9.
    line("confidence", 0.5, [18, -20], 0.4),
    line("confidence", 0.9, [18, 18], 0.5),
    line("confidence", 0.95, [20, 20], 0.8),
    line("random", 0.5, [0, 0], 0.4),
    line("backbone", None, [20, 20], 1),
]


def repeated(row, times):
    """The same with its games so many times over."""
    return {key: value * times if isinstance(value, list) else value for key, value in row.items()}


def make_agent() -> Agent:
    config = AgentConfig(atari=AtariConfig(), n_actions=6, exits=("conv1", "conv2"), method="ztw")
    torch.manual_seed(0)
    return Agent(config, build_model(config))


def write_table(path: Path, rows=ROWS, **changes) -> None:
    table = {
        "game": "pong",
        "rule": "confidence",
        "seed": 0,
        "evaluation": {"action_mode": "greedy"},
        "backend": "eager PyTorch",
        "method": "ztw",
        "identity": asdict(make_agent().identity()),
        "rows": rows,
        **changes,
    }
    path.write_text(json.dumps(table))


@pytest.fixture
def agent(tmp_path, monkeypatch) -> Path:
    """An agent with random weights and a table, in an otherwise empty current directory."""
    monkeypatch.chdir(tmp_path)
    save_agent(tmp_path / "agent", make_agent())
    write_table(tmp_path / "agent" / "curve.json")
    return Path("agent")


def test_export_and_run(agent, capsys):
    assert cli.main(["export", "--agent", str(agent), "--keep", "0.95"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "pong.onnx" in out
    # On all games 0.9 is the cheapest that keeps 95 %; by halves, 0.5 fails where 0.9 is chosen.
    assert out.startswith("agent: agent ")
    chosen = "threshold 0.9 is chosen on all 2 games of agent/curve.json: there,"
    found = f"{38.2 / 40.2:.1%} of the return over random play at 0.500 of the operations"
    assert f"{chosen} {found}" in out
    kept = (0.2 + 38.2) / 40.2 / 2
    assert f"on other games than it was made on, such a choice keeps {kept:.1%} at 0.450" in out
    assert "warning: 2 games are few to choose by; more come from: ztw-rl eval" in out
    model = deploy.load("pong.onnx")
    assert model.metadata["thresholds"] == [0.9, 0.9]
    assert model.metadata["labels"][:2] == ["NOOP", "FIRE"]
    assert model.metadata["relative_macs"] == pytest.approx([0.376, 0.676, 1.041], abs=1e-3)
    assert model.metadata["threshold_chosen_for"] == {
        "keep": 0.95,
        "cost_counts": "macs",
        "n_games": 2,
        "expected_cost": pytest.approx(0.45),
        "expected_kept": pytest.approx(kept),
    }
    answer = model.predict(np.zeros((3, 4, 84, 84), np.uint8), threshold=0.0)
    assert answer.exits.tolist() == [0, 0, 0]


def test_engines_side_by_side(agent, capsys, monkeypatch):
    few = {name: engines.BACKENDS[name] for name in ("eager", "onnx", "litert")}
    monkeypatch.setattr(engines, "BACKENDS", few)
    monkeypatch.setattr(engines, "FURTHER", {"openvino": openvino})
    monkeypatch.setattr("importlib.util.find_spec", missing("openvino"))
    command = ["bench", "--agent", str(agent), "--engines", "--threshold=0.5", "--n-rounds=3"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "without openvino: openvino is missing; pip install openvino" in out
    rows = pd.read_csv("runs/bench/pong-001/engines.csv")
    assert list(dict.fromkeys(rows.backend)) == ["eager PyTorch", "ONNX Runtime", "LiteRT"]
    assert list(rows.case[:4]) == ["full", "exit_0", "exit_1", "no_exit"]
    assert (rows.p99_us >= rows.p50_us).all()
    assert (rows[rows.case == "full"].relative_time == 1).all()


def test_a_file_of_litert(agent, capsys):
    command = ["export", "--agent", str(agent), "--threshold=0.5", "--output=pong.tflite"]
    assert cli.main(command) == 0
    assert "run it with: ztw_rl.deploy.load('pong.tflite')" in capsys.readouterr().out
    assert cli.main([*command[:-1], "--output=pong.zip"]) == 0
    x = np.random.default_rng(0).integers(0, 256, (40, 4, 84, 84), dtype=np.uint8)
    found, other = (deploy.load(name).predict(x) for name in ("pong.tflite", "pong.zip"))
    assert found.exits.tolist() == other.exits.tolist()
    assert found.actions.tolist() == other.actions.tolist()


def missing(package):
    """In place of ``find_spec``: all but one are there."""
    find = importlib.util.find_spec
    return lambda name: None if name == package else find(name)


def test_ten_games_are_enough_to_choose_by(agent, capsys):
    write_table(agent / "curve.json", [repeated(row, 5) for row in ROWS])
    assert cli.main(["export", "--agent", str(agent), "--keep", "0.95"]) == 0
    out = capsys.readouterr().out
    assert "chosen on all 10 games" in out
    assert "warning" not in out


def test_without_a_target_what_keeps_95_percent_in_the_least_time(agent, capsys):
    assert cli.main(["export", "--agent", str(agent)]) == 0
    out = capsys.readouterr().out
    kept = f"threshold 0.9: such a choice keeps {(0.2 + 38.2) / 40.2 / 2:.1%} of the return over"
    assert f"{kept} random play in 0.55 of the full network's time, on other games" in out
    assert f"({38.2 / 40.2:.1%} in 0.60 on all 2 games of agent/curve.json)" in out
    assert deploy.load("pong.onnx").metadata["thresholds"] == [0.9, 0.9]
    chosen = deploy.load("pong.onnx").metadata["threshold_chosen_for"]
    assert (chosen["keep"], chosen["cost_counts"], chosen["n_games"]) == (0.95, "time", 2)


def test_without_a_target_a_table_that_is_damaged_is_told(agent, capsys):
    (agent / "curve.json").write_text("{")
    assert cli.main(["export", "--agent", str(agent)]) == 2
    assert "agent/curve.json" in capsys.readouterr().err


def test_without_a_target_where_nobody_can_tell(agent, capsys):
    Path("envs").mkdir()
    Path("envs/pong.yaml").write_text("random_return: 30")
    assert cli.main(["export", "--agent", str(agent)]) == 0
    told = "what threshold 0.9 keeps over random play cannot be told: it plays no better"
    assert told in capsys.readouterr().out
    Path("envs/pong.yaml").write_text("{}")
    assert cli.main(["export", "--agent", str(agent)]) == 0
    assert "cannot be told: its game's recipe has no random_return" in capsys.readouterr().out


def test_without_a_target_an_exit_alone_may_be_best(agent, capsys):
    rows = [line("forced", 0, [19, 20], 0.2), line("forced", 2, [20, 20], 1.1)]
    write_table(agent / "curve.json", [*ROWS, *rows])
    assert cli.main(["export", "--agent", str(agent)]) == 0
    out = capsys.readouterr().out
    assert "exit 0 alone: such a choice keeps 98.8% of the return" in out
    assert "in place of" not in out
    assert cli.main(["export", "--agent", str(agent)]) == 0
    assert "exit 0 alone, in place of what was there" in capsys.readouterr().out
    model = deploy.load("pong.onnx")
    assert model.predict(np.zeros((3, 4, 84, 84), np.uint8)).exits.tolist() == [0, 0, 0]
    arguments = ["--backends=eager", "--batch-sizes=1", "--n-rounds=2"]
    assert cli.main(["bench", "--agent", str(agent), "--keep=0.95", *arguments]) == 0
    settings = json.loads(Path("runs/bench/pong-001/bench.json").read_text())
    assert (settings["threshold"], settings["forced_exit"]) == (None, 0)


def test_without_a_target_where_nothing_saves_time(agent, capsys):
    write_table(agent / "curve.json", [ROWS[0], {**ROWS[2], "time": [1.1, 1.1]}, ROWS[-1]])
    assert cli.main(["export", "--agent", str(agent)]) == 0
    assert "nothing in agent/curve.json keeps 95% of the return in less" in capsys.readouterr().out
    answer = deploy.load("pong.onnx").predict(np.zeros((3, 4, 84, 84), np.uint8))
    assert answer.exits.tolist() == [2, 2, 2]


def test_without_a_target_and_an_evaluation(agent, capsys):
    (agent / "curve.json").unlink()
    assert cli.main(["export", "--agent", str(agent)]) == 0
    told = "nobody has measured what threshold 0.9 keeps and saves; find out with: ztw-rl eval "
    assert told in capsys.readouterr().out


def test_a_variants_file_has_a_name_of_its_own(agent):
    for name in ("pong", "pong/input"):
        save_agent(Path("agents") / name, make_agent())
        assert cli.main(["export", "--agent", name, "--threshold", "0.5"]) == 0
    assert deploy.load("pong.onnx").metadata["name"] == "pong"
    assert deploy.load("pong-input.onnx").metadata["name"] == "pong-input"


def test_bench_writes_its_table(agent, capsys):
    arguments = ["--backends", "eager", "--batch-sizes", "1", "8", "--n-rounds", "3"]
    assert (
        cli.main(["bench", "--agent", str(agent), "--budget", "0.6", "--cost=time", *arguments])
        == 0
    )
    out = capsys.readouterr().out
    assert "pays off once" in out
    assert "threshold 0.9 is chosen on all 2 games of agent/curve.json: there, " in out
    assert "at 0.600 of the time" in out
    table = pd.read_csv("runs/bench/pong-001/bench.csv")
    columns = "backend batch_size threads case p50_us p90_us p99_us relative_time relative_macs"
    assert table.columns.tolist() == columns.split()
    assert table["case"].tolist() == ["full", "exit_0", "exit_1", "no_exit", "mix"] * 2
    assert Path("runs/bench/pong-001/bench.png").stat().st_size > 0
    settings = json.loads(Path("runs/bench/pong-001/bench.json").read_text())
    assert (settings["threshold"], settings["n_rounds"]) == (0.9, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "0.5", "--keep", "0.9"], "exclude one another"),
        (["--budget", "0.1"], "--budget 0.1 is below the lowest cost"),
        *(
            ([f"--threshold={value}"], f"--threshold must be between 0 and 1, not {value}")
            for value in ("nan", "inf", "-3")
        ),
        *(
            ([f"--{name}={value}"], f"--{name} must be above 0 and at most 10, not {value}")
            for name in ("budget", "keep")
            for value in ("nan", "inf", "0", "-0.5", "95")
        ),
        (["--risk=nan"], "--risk must be between 0 and 1, not nan"),
        (
            ["--keep", "1.5"],
            "agent/curve.json: --keep 1.5 needs a score of 40.1, and nothing has it at a lower "
            "cost than the full model (the best has 20); ask for less, or evaluate at more",
        ),
        (["--risk", "0.1"], "with: ztw-rl eval --agent agent --disagreement --n-episodes 64 "),
        (["--risk", "1.1"], "--risk must be between 0 and 1, not 1.1"),
        (["--risk", "0.1", "--keep", "0.9"], "exclude one another"),
        (["--keep", "0.9", "--calibration", "nowhere"], "there is no curve.json"),
        (["--calibration", "nowhere"], "--calibration needs --budget, --keep or --risk"),
        (["--engines", "--threads=2"], "--engines chooses what is timed; leave out --threads"),
        (["--backends"], "backends must name at least one of eager, compiled, onnx, litert"),
        (["--backends", "jit"], "unknown backend 'jit'"),
        (["--backends", "eager", "jit", "--n-rounds", "1000000"], "unknown backend 'jit'"),
        (["--seed=-1"], "seed must be between 0 and 1000000000, not -1"),
        (["--batch-sizes", "0"], "batch_sizes must be numbers of at least 1"),
    ],
)
def test_mistakes_are_one_line(agent, capsys, arguments, message):
    assert cli.main(["bench", "--agent", str(agent), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not Path("runs").exists()


def test_a_folder_in_the_files_place(agent, capsys):
    before = sorted(Path(".").rglob("*"))
    for output in (".", "agent"):
        assert cli.main(["export", "--agent", str(agent), "--output", output]) == 2
        error = capsys.readouterr().err
        assert error == f"error: cannot write to {output}: it is a folder; name a file in it\n"
    assert sorted(Path(".").rglob("*")) == before


def test_a_threshold_of_one_never_leaves(agent):
    assert cli.main(["export", "--agent", str(agent), "--threshold=1"]) == 0
    answer = deploy.load("pong.onnx").predict(np.zeros((3, 4, 84, 84), np.uint8))
    assert answer.exits.tolist() == [2, 2, 2]


def test_choosing_needs_a_calibration_run(agent, capsys):
    (agent / "curve.json").unlink()
    command = ["bench", "--agent", str(agent), "--keep", "0.9"]
    assert cli.main(command) == 2
    needed = "need a calibration run of these weights; make one with: ztw-rl eval --agent agent"
    assert needed in capsys.readouterr().err
    run = Path("runs/eval/pong-001")
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    write_table(run / "curve.json", identity={"agent": "a", "policy": "b"})
    assert cli.main(command) == 2
    assert needed in capsys.readouterr().err
    older = Path("runs/eval/pong-000")
    older.mkdir()
    (older / "config.json").write_text("{}")
    os.utime(older / "config.json", (1000, 1000))
    write_table(older / "curve.json")
    measured = [*command, "--backends=eager", "--batch-sizes=1", "--n-rounds=1"]
    assert cli.main(measured) == 0
    # Newer ones that no threshold can be chosen from are passed over.
    write_table(run / "curve.json", evaluation={"action_mode": "sample"})
    assert cli.main(measured) == 0
    patient = [line("patience", 1, [20, 20], 0.4), ROWS[-1]]
    write_table(run / "curve.json", patient, rule="patience")
    assert cli.main(measured) == 0
    # A table that cannot be read may be anybody's.
    (run / "curve.json").write_text("{")
    assert cli.main(measured) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": {"action_mode": "sample"}}, "was played with sampled actions"),
        ({"rule": "patience", "rows": [line("patience", 1, [20, 20], 0.4), ROWS[-1]]}, "--rule"),
        ({"method": "student", "rows": [line("student", None, [20, 20], 0.4)]}, "a student's"),
    ],
)
def test_tables_that_no_threshold_can_be_chosen_from(agent, capsys, changes, message):
    write_table(Path("other.json"), **changes)
    command = ["export", "--agent", str(agent), "--budget=0.9", "--calibration=other.json"]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: other.json")
    assert message in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity": {"agent": "a", "policy": "b"}}, "was made with other weights"),
        ({"game": "breakout"}, "is a table of breakout, not of pong"),
    ],
)
def test_no_guarantee_from_another_agents_table(agent, capsys, changes, message):
    rows = [{**row, "disagreement": [0.0, 0.0]} for row in ROWS]
    write_table(Path("foreign.json"), rows, **changes)
    for wish in (["--keep=0.9"], ["--risk=0.9"]):
        command = ["export", "--agent", str(agent), *wish, "--calibration=foreign.json"]
        assert cli.main(command) == 2
        assert f"foreign.json {message}" in capsys.readouterr().err


def test_keeping_needs_random_plays_return(agent, capsys):
    Path("envs").mkdir()
    Path("envs/pong.yaml").write_text("ppo: {n_envs: 8}")
    assert cli.main(["bench", "--agent", str(agent), "--keep", "0.9"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the recipe of pong has none; measure it with: ztw-rl score --random" in error


@pytest.mark.parametrize("damage", ["{", "[]", '{"rows": [{"rule": "backbone"}]}', '{"rows": []}'])
def test_a_damaged_calibration_run(agent, capsys, damage):
    (agent / "curve.json").write_text(damage)
    assert cli.main(["bench", "--agent", str(agent), "--budget", "0.9"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "agent/curve.json" in error


def test_aoti_without_a_compiler(agent, capsys, monkeypatch):
    monkeypatch.setenv("CXX", "g++")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert cli.main(["export", "--agent", str(agent), "--format", "aoti"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "there is no C++ compiler 'g++'" in error
    assert error.endswith("; use the format onnx\n")
    assert not Path("pong.onnx").exists()


def test_risk(agent, capsys):
    n = 200
    rows = [
        line("confidence", 0.5, [0] * n, 0.4, disagreement=[0.0, 0.2] * (n // 2)),
        line("confidence", 0.9, [0] * n, 0.7, disagreement=[0.0] * n),
        line("backbone", None, [0] * n, 1),
    ]
    write_table(agent / "curve.json", rows)
    assert cli.main(["export", "--agent", str(agent), "--risk", "0.02"]) == 0
    out = capsys.readouterr().out
    assert "threshold 0.9 is chosen on all 200 games" in out
    assert "with confidence 0.95, at most 2.0% of a game's decisions differ" in out
    chosen = deploy.load("pong.onnx").metadata["threshold_chosen_for"]
    assert (chosen["risk"], chosen["confidence"], chosen["n_games"]) == (0.02, 0.95, 200)
    assert cli.main(["export", "--agent", str(agent), "--risk", "0.01"]) == 2
    assert "337 games without any difference are the least" in capsys.readouterr().err


def test_a_student_has_no_exits_to_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network = NetworkConfig(widths=(17, 34, 34, 305))
    config = AgentConfig(6, (), "student", student_of="conv1", network=network, atari=AtariConfig())
    save_agent(tmp_path / "s", Agent(config, build_model(config)))
    assert cli.main(["bench", "--agent=s"]) == 2
    assert capsys.readouterr().err.startswith("error: s is a student, without exits to time")


@pytest.mark.parametrize("method", ["student", "ztw"])
def test_students_and_exits_on_the_input_are_exported(tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    if method == "student":
        network = NetworkConfig(widths=(17, 34, 34, 305))
        config = AgentConfig(6, (), method, network=network, atari=AtariConfig())
    else:
        config = AgentConfig(6, ("input", "conv1"), method, atari=AtariConfig())
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


@pytest.mark.parametrize("content", [b"weights of another program", b""])
def test_a_file_that_is_no_export_is_not_replaced(agent, one_error, content):
    Path("mine.zip").write_bytes(content)
    message = one_error("export", "--agent", str(agent), "--threshold=0.5", "--output=mine.zip")
    assert "mine.zip is there, and no exported model; name another file" in message
    assert Path("mine.zip").read_bytes() == content
