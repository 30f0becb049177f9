from __future__ import annotations

import csv
import json
import math
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from ztw_rl import cli
from ztw_rl.deployed import DeployedModel, LitertModel
from ztw_rl.rl.agent import load_agent, save_agent
from ztw_rl.rl.atari.emulators import Emulators

SMALL = ["eval", "--device=cpu", "--n-episodes=2"]
COLUMNS = [
    *["rule", "threshold", "episodes"],
    *["return_mean", "return_std", "return_iqm", "return_ci_low", "return_ci_high"],
    *["relative_macs", "relative_time", "exit_share_0", "exit_share_1", "exit_share_2"],
]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_newest_agent_at_several_thresholds(distill_run, capfd):
    older = Path("runs/distill/pong-000")
    shutil.copytree(distill_run, older)
    os.utime(older / "config.json", (1, 1))
    assert cli.main([*SMALL, "--thresholds", "0.1:0.5:0.2", "--seed=4"]) == 0
    captured = capfd.readouterr()
    # 10 rows of 2 games; no bar moves where there is no terminal.
    assert [line for line in captured.out.splitlines() if line.startswith("games: ")] == [
        f"games: {n} of 20" for n in range(2, 21, 2)
    ]
    out = " ".join(captured.out.split())
    assert f"agent: {distill_run}/agent" in out
    assert "runs/eval/pong-001/curve.csv" in out
    assert "runs/eval/pong-001/curve.png" in out
    # Two games are too few to choose from.
    assert out.endswith(f"next: ztw-rl eval --agent {distill_run}/agent --n-episodes 30")
    assert "full policies that others trained on pong score 20 to 21" in out

    rows = rows_of(Path("runs/eval/pong-001/curve.csv"))
    assert list(rows[0]) == COLUMNS
    assert [(r["rule"], r["threshold"]) for r in rows] == [
        *(("confidence", t) for t in ("0.1", "0.3", "0.5")),
        *(("random", t) for t in ("0.1", "0.3", "0.5")),
        *(("forced", m) for m in ("0.0", "1.0", "2.0")),
        ("backbone", ""),
    ]
    for row in rows:
        assert row["episodes"] == "2"
        assert sum(float(row[f"exit_share_{m}"]) for m in range(3)) == pytest.approx(1)
        assert float(row["return_ci_low"]) <= float(row["return_mean"])
        assert float(row["return_mean"]) <= float(row["return_ci_high"])
        assert all(math.isfinite(float(row[name])) for name in COLUMNS[2:])
    forced, backbone = rows[6:9], rows[9]
    shares = [[float(r[f"exit_share_{m}"]) for m in range(3)] for r in forced]
    assert shares == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    macs = [f"{float(r['relative_macs']):.1%}" for r in forced]
    assert macs == ["37.6%", "67.6%", "104.1%"]
    assert float(backbone["relative_macs"]) == float(backbone["relative_time"]) == 1
    # With six actions somebody is always surer than 0.1.
    assert rows[0]["exit_share_0"] == "1.0"
    # Forced to its end, the agent plays the backbone's games.
    assert forced[2]["return_mean"] == backbone["return_mean"]

    settings = json.loads(Path("runs/eval/pong-001/config.json").read_text())
    assert (settings["backend"], settings["device"], settings["ensembles"]) == (
        "eager",
        "cpu",
        True,
    )
    stored = json.loads(Path("runs/eval/pong-001/curve.json").read_text())
    assert stored["agent"] == f"{distill_run}/agent"
    assert stored["thresholds"] == [0.1, 0.3, 0.5]
    assert (stored["seed"], stored["rule"]) == (4, "confidence")
    assert stored["evaluation"]["n_episodes"] == 2
    assert stored["backend"]
    assert [r["rule"] for r in stored["rows"]] == [r["rule"] for r in rows]
    assert stored["rows"][-1]["threshold"] is None
    for row in stored["rows"]:
        assert len(row["returns"]) == 2
        assert sum(row["returns"]) / 2 == pytest.approx(row["return_mean"])
        for cost in ("macs", "time"):
            spent = np.dot(row["decisions"], row[cost]) / 50
            assert spent == pytest.approx(row[f"relative_{cost}"])
    # Games are cut off after 100 frames, 4 per decision.
    assert all(sum(row["decisions"]) == 50 for row in stored["rows"])
    assert Path("runs/eval/pong-001/curve.png").read_bytes().startswith(b"\x89PNG")


def test_one_game_at_one_threshold_into_a_folder_of_ones_own(distill_run):
    arguments = [f"--agent={distill_run}", "--thresholds=0.4", "--n-episodes=1", "--output=here/a"]
    assert cli.main([*SMALL, *arguments, "--action-mode=sample"]) == 0
    assert sorted(p.name for p in Path("here/a").iterdir()) == [
        "curve.csv",
        "curve.json",
        "curve.png",
    ]
    assert not Path("runs/eval").exists()
    stored = json.loads(Path("here/a/curve.json").read_text())
    assert stored["evaluation"]["action_mode"] == "sample"


def test_patience(distill_run):
    assert cli.main([*SMALL, "--rule=patience", "--thresholds=1,3", "--output=p"]) == 0
    rows = rows_of(Path("p/curve.csv"))
    assert [r["rule"] for r in rows] == [
        *["patience"] * 2,
        *["random"] * 2,
        *["forced"] * 3,
        "backbone",
    ]
    assert rows[0]["exit_share_0"] == "1.0"
    assert rows[1]["exit_share_2"] == "1.0"


def test_the_ics_without_their_ensembles(distill_run, one_error):
    whole = load_agent(distill_run / "agent")
    arguments = ["--no-ensembles", "--thresholds=0.5", "--output=b"]
    assert cli.main([*SMALL, *arguments]) == 0
    stored = json.loads(Path("b/curve.json").read_text())
    assert (stored["method"], stored["ensembles"]) == ("cascade", False)
    assert stored["exits"] == ["conv1", "conv2"]
    assert stored["identity"]["policy"] == whole.identity().policy
    assert stored["identity"]["agent"] == whole.without_ensembles().identity().agent
    save_agent(Path("bare"), whole.without_ensembles())
    message = "bare is cascade, without ensembles; leave out --no-ensembles"
    assert message in one_error("eval", "--agent=bare", "--no-ensembles", "--output=c")
    assert not Path("c").exists()


@pytest.mark.parametrize(("backend", "name"), [("onnx", "ONNX Runtime"), ("litert", "LiteRT")])
def test_the_backend_that_was_asked_for_plays_and_is_timed(distill_run, monkeypatch, backend, name):
    run_exit, sizes = DeployedModel.run_exit, set()

    def watched(self, m, features, logits):
        sizes.add(len(features))
        return run_exit(self, m, features, logits)

    model = LitertModel if backend == "litert" else DeployedModel
    predict_one, timed = model._predict_one, []

    def watched_one(self, x, bounds):
        timed.append(len(x))
        return predict_one(self, x, bounds)

    monkeypatch.setattr(DeployedModel, "run_exit", watched)
    monkeypatch.setattr(model, "_predict_one", watched_one)
    assert cli.main([*SMALL, f"--backend={backend}", "--thresholds=0.5", "--output=o"]) == 0
    # Several games are played at a time.
    assert max(sizes) > 1
    # One observation is timed.
    assert timed
    stored = json.loads(Path("o/curve.json").read_text())
    assert (stored["backend"], stored["device"], stored["ensembles"]) == (
        name,
        "cpu",
        True,
    )


def test_disagreement_is_stored_game_by_game(distill_run):
    arguments = ["--disagreement", "--thresholds=0,1", "--output=d"]
    assert cli.main([*SMALL, *arguments]) == 0
    stored = json.loads(Path("d/curve.json").read_text())
    first, second, *others = stored["rows"]
    assert len(first["disagreement"]) == 2
    assert all(0 <= share <= 1 for share in first["disagreement"])
    # Nobody is surer than 1, so the full model answers and agrees with itself.
    assert second["disagreement"] == [0, 0]
    assert not any("disagreement" in row for row in others)


def test_every_row_plays_the_seeds_that_were_asked_for(distill_run, monkeypatch):
    reset, seeds = Emulators.reset, []

    def watched(self, wanted, which=None):
        seeds.extend(wanted)
        return reset(self, wanted, which)

    monkeypatch.setattr(Emulators, "reset", watched)
    assert cli.main([*SMALL, "--thresholds=0.2", "--seed=70", "--output=a"]) == 0
    # The rule, its control, three forced exits and the backbone.
    assert (seeds.count(70), seeds.count(71), seeds.count(72)) == (6, 6, 0)


@pytest.mark.cuda
def test_on_a_gpu(distill_run):
    assert cli.main(["eval", "--device=cuda", "--thresholds=0.3", "--n-episodes=1"]) == 0


def test_no_agent_yet(folder, one_error, monkeypatch):
    monkeypatch.setattr("ztw_rl.agents.shipped", dict)
    error = one_error(*SMALL)
    assert error == "error: there is no agent yet; make one with: ztw-rl distill-ics\n"
    assert "there is no agent 'pnog'" in one_error(*SMALL, "--agent=pnog")
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--thresholds=0.9:0.1"], "thresholds '0.9:0.1' go down; write 0.1:0.9"),
        (["--thresholds=high"], "'high' is no number"),
        (["--thresholds="], "'' is no number"),
        (["--thresholds=0.5", "--rule=patience"], "patience counts exits, such as 1,2,3"),
        (["--agent=nowhere"], "there is no agent 'nowhere'"),
        (["--agent=runs"], "runs holds no agent.json; is its distillation finished?"),
        (["--device=cuda:99"], "device 'cuda:99' is not available here; use the device cpu"),
        (["--device=cuda", "--backend=onnx"], "device must be cpu with --backend onnx, not cuda"),
        (["--device=gpu"], "unknown device 'gpu'"),
        (["--n-episodes=0"], "n_episodes must be at least 1, not 0"),
        (["--n-envs=0"], "n_envs must be at least 1, not 0"),
        (["--seed=-1"], "seed must be between 0 and 1000000000, not -1"),
        (["--seed=9999999999"], "seed must be between 0 and 1000000000, not 9999999999"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    distill_run, folder, one_error, arguments, message
):
    assert message in one_error("eval", *arguments)
    assert [p.name for p in folder.iterdir()] == ["runs"]
    assert [p.name for p in Path("runs").iterdir()] == ["distill"]


@pytest.mark.parametrize("name", ["agent.json", "weights.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_agents(distill_run, one_error, name, damage):
    path = distill_run / "agent" / name
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.unlink()
    error = one_error("eval", f"--agent={distill_run}/agent")
    if (name, damage) == ("agent.json", "missing"):
        assert "holds no agent.json" in error
    else:
        assert f"{path} is {'damaged' if damage == 'truncated' else 'missing'}" in error
    assert not Path("runs/eval").exists()


@pytest.mark.parametrize("arguments", [[], ["--output=runs/eval"], ["--output=runs/eval/deeper"]])
def test_a_place_that_cannot_be_written(distill_run, one_error, arguments):
    Path("runs/eval").write_text("in the way")
    assert "is not a folder" in one_error(*SMALL, *arguments)
    assert Path("runs/eval").read_text() == "in the way"


def test_a_wrong_type_in_the_recipe(distill_run, folder, one_error):
    (folder / "envs").mkdir()
    (folder / "envs" / "pong.yaml").write_text("evaluation: {n_episodes: 1.5}")
    error = one_error("eval")
    assert "envs/pong.yaml: evaluation.n_episodes is 1.5 (a number)" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule=magic"], "invalid choice 'magic' for argument '--rule'"),
        (["--n-episodes=many"], "error parsing --n-episodes: invalid literal"),
        (["--n-episodes"], "missing value for argument '--n-episodes'"),
        (["surplus"], "unrecognized options: surplus (ztw-rl eval --help"),
        (["--treshold", "0.5"], "did you mean --thresholds? (ztw-rl"),
        (["--treshold", "0.5", "--epizodes", "3"], "did you mean --n-episodes or --thresholds?"),
    ],
)
def test_unusable_flags(distill_run, capfd, arguments, message):
    assert cli.main(["eval", *arguments]) == 2
    captured = capfd.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""
    assert not Path("runs/eval").exists()


def test_a_student_is_one_row(ppo_run, distill, capfd):
    assert distill("--method=student") == 0
    for asked in (
        ["--thresholds=0.1,1"],
        ["--rule=patience", "--thresholds=1"],
        ["--disagreement"],
    ):
        capfd.readouterr()
        assert cli.main(["eval", "--device=cpu", "--n-episodes=1", *asked]) == 2
        assert "is a student, which has no exits; leave out --" in capfd.readouterr().err
    capfd.readouterr()
    assert cli.main([*SMALL, "--output=s"]) == 0
    assert "picture" not in capfd.readouterr().out
    assert sorted(p.name for p in Path("s").iterdir()) == ["curve.csv", "curve.json"]
    (row,) = rows_of(Path("s/curve.csv"))
    assert (row["rule"], row["threshold"], row["episodes"]) == ("student", "", "2")
    assert float(row["relative_macs"]) == pytest.approx(0.376, rel=0.02)
    assert float(row["relative_time"]) > 0
    stored = json.loads(Path("s/curve.json").read_text())
    assert (stored["method"], stored["student_of"]) == ("student", "conv1")
    assert len(stored["rows"][0]["returns"]) == 2


def test_a_percentage_is_no_threshold(distill_run, one_error):
    error = one_error(*SMALL, "--thresholds=0.5,50")
    assert "--thresholds 0.5,50: a confidence lies between 0 and 1, such as 0.5" in error


@pytest.mark.parametrize("name", ["curve.json", "curve.csv", "curve.png"])
def test_a_finished_evaluation_is_not_overwritten(distill_run, one_error, name):
    Path("a").mkdir()
    Path("a", name).write_text("of another evaluation")
    error = one_error(*SMALL, "--thresholds=0.4", "--n-episodes=1", "--output=a")
    assert f"a holds another evaluation ({name}); name another --output, or delete it" in error
    assert [p.name for p in Path("a").iterdir()] == [name]


def test_a_table_names_the_weights_it_was_made_with(distill_run):
    assert cli.main([*SMALL, "--thresholds=0.4", "--n-episodes=1", "--output=a"]) == 0
    stored = json.loads(Path("a/curve.json").read_text())
    identity = load_agent(distill_run / "agent").identity()
    assert stored["identity"] == {**asdict(identity), "gates": None}
    assert stored["method"] == "ztw"


def test_weights_of_another_games_action_count(distill_run, one_error):
    path = distill_run / "agent" / "agent.json"
    path.write_text(path.read_text().replace('"pong"', '"breakout"'))
    error = one_error(*SMALL, "--output=a")
    assert f"{path}: the agent has 6 actions, but breakout has 4" in error
    assert not Path("a").exists()


def test_an_exit_before_the_first_convolution(ppo_run, distill):
    assert distill("--distill.exits", "input", "conv1", "conv2") == 0
    assert cli.main([*SMALL, "--thresholds=0,0.4", "--output=i"]) == 0
    rows = rows_of(Path("i/curve.csv"))
    forced = [row for row in rows if row["rule"] == "forced"]
    macs = [f"{float(row['relative_macs']):.1%}" for row in forced]
    assert macs == ["6.5%", "44.1%", "74.1%", "110.6%"]
    assert (rows[0]["threshold"], rows[0]["exit_share_0"]) == ("0.0", "1.0")
    assert float(rows[0]["relative_macs"]) < 0.34
