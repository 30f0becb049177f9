"""Agents side by side, from folders whose tables are written by hand."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from ztw_rl import cli
from ztw_rl.atari.agent import Agent, AgentConfig, build_model, save_agent
from ztw_rl.atari.config import AtariConfig

ACTIONS = {"pong": 6, "breakout": 4}
N_GAMES = 10


def make_agent(game: str, n_actions: int | None = None) -> Agent:
    torch.manual_seed(0)
    config = AgentConfig(
        AtariConfig(game=game), n_actions or ACTIONS[game], ("conv1", "conv2"), "ztw"
    )
    return Agent(config, build_model(config).eval())


def row(rule, threshold, returns, cost):
    return {
        "rule": rule,
        "threshold": threshold,
        "returns": list(map(float, returns)),
        "decisions": [100] * len(returns),
        "macs": [cost] * len(returns),
        "time": [cost / 2 + 0.4] * len(returns),
    }


def table(game, rows, **changes):
    return {
        "game": game,
        "rule": "confidence",
        "seed": 0,
        "evaluation": {"action_mode": "greedy"},
        "backend": "eager PyTorch",
        "method": "ztw",
        "identity": asdict(make_agent(game).identity()),
        "rows": rows,
        **changes,
    }


def write_table(path, *args, **changes):
    path.write_text(json.dumps(table(*args, **changes)))


def returns(mean, spread, seed):
    """Returns whose halves both have the given mean."""
    noise = np.random.default_rng(seed).normal(size=N_GAMES)
    for half in (noise[::2], noise[1::2]):
        half -= half.mean()
    return mean + spread * noise


FULL = {"pong": returns(18, 0.1, 0), "breakout": returns(301.2, 1, 1)}
FLOOR = {"pong": -20.2, "breakout": 1.2}


def kept(game, share, spread=0.2, seed=7):
    """Returns that keep a share of the full policy's, over random play."""
    scale = FULL[game].mean() - FLOOR[game]
    return returns(FLOOR[game] + share * scale, spread * scale / 40, seed)


def make_folder(game: str) -> Path:
    folder = Path("agents") / game
    agent = make_agent(game)
    save_agent(folder, agent)
    rows = [
        row("confidence", 0.2, kept(game, 0.90), 0.4),
        row("confidence", 0.5, kept(game, 0.96), 0.6),
        row("confidence", 0.9, kept(game, 0.995), 0.9),
        row("random", 0.5, kept(game, 0.5), 0.6),
        row("forced", 0.0, kept(game, 0.5), 0.376),
        row("backbone", None, FULL[game], 1.0),
    ]
    write_table(folder / "curve.json", game, rows)
    return folder


@pytest.fixture
def pong(folder) -> Path:
    return make_folder("pong")


@pytest.fixture
def both(pong) -> Path:
    make_folder("breakout")
    return Path("agents")


def lines() -> list[dict[str, str]]:
    with Path("agents/games.csv").open() as file:
        return list(csv.DictReader(file))


def test_one_game(pong, capsys):
    assert cli.main(["report"]) == 0
    assert "picture: agents/games.png" in capsys.readouterr().out
    found = lines()
    assert [(r["game"], r["method"]) for r in found] == [("pong", "ztw")] * 3
    assert list(found[0])[:5] == ["game", "method", "keep", "relative_macs", "threshold"]
    assert [r["keep"] for r in found] == ["0.9900", "0.9500", "0.8800"]
    assert [r["relative_macs"] for r in found] == ["0.9000", "0.6000", "0.4000"]
    assert [r["threshold"] for r in found] == ["0.9", "0.5", "0.2"]
    assert [float(r["kept"]) for r in found] == pytest.approx([0.995, 0.96, 0.9])
    assert [r["separated"] for r in found] == ["yes"] * 3
    text = Path("agents/games.md").read_text()
    line = "| pong | ztw | 3 × 10 | 0.900, 99.5% (0.9) | 0.600, 96.0% (0.5) | 0.400, 90.0% (0.2) |"
    assert line in text
    assert (found[0]["settings"], found[0]["games"]) == ("3", "10")
    assert "10 full games per setting; times: eager PyTorch, one thread." in text
    assert Path("agents/games.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_tables_give_the_same_bytes(both):
    assert cli.main(["report", "agents", "--output=a"]) == 0
    assert cli.main(["report", "agents/", "--output=b"]) == 0
    for name in ("games.csv", "points.csv", "games.md", "games.png"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()
    assert not Path("agents/games.csv").exists()


def test_over_games(both):
    assert cli.main(["report"]) == 0
    found = lines()
    names = ["breakout", "pong", "IQM over games"]
    assert [r["game"] for r in found[::3]] == names
    assert [r["relative_macs"] for r in found[6:]] == ["0.9000", "0.6000", "0.4000"]


def test_levels_the_interval_cannot_tell_apart_are_marked(pong):
    loud = [
        row("confidence", 0.5, kept("pong", 0.96, spread=8), 0.6),
        row("backbone", None, FULL["pong"], 1.0),
    ]
    write_table(pong / "curve.json", "pong", loud)
    assert cli.main(["report"]) == 0
    assert lines()[2]["separated"] == "no"
    assert ") ~ |" in Path("agents/games.md").read_text()


def test_where_nothing_keeps_enough_the_backbone_stands_in(pong):
    poor = [
        row("confidence", 0.5, kept("pong", 0.5), 0.6),
        row("backbone", None, FULL["pong"], 1.0),
    ]
    write_table(pong / "curve.json", "pong", poor)
    assert cli.main(["report"]) == 0
    assert {(r["relative_macs"], r["threshold"]) for r in lines()} == {("1.0000", "backbone")}


def test_other_methods(pong):
    policy = make_agent("pong").identity().policy
    identity = {"agent": "0" * 16, "policy": policy}
    full = row("backbone", None, FULL["pong"], 1.0)
    sdn = [row("confidence", 0.5, kept("pong", 0.9), 0.7), full]
    write_table(pong / "curve-sdn.json", "pong", sdn, method="sdn", identity=identity)
    patient = [row("patience", t, kept("pong", 0.96), 0.4 + t / 10) for t in (1.0, 2.0)]
    write_table(
        pong / "curve-patience.json", "pong", [*patient, full], method="sdn", rule="patience"
    )
    sampled = [row("confidence", 0.5, kept("pong", 0.96), 0.5), full]
    how = {"action_mode": "sample"}
    write_table(pong / "curve-sampled.json", "pong", sampled, evaluation=how)
    early = [row("confidence", 0.5, kept("pong", 0.89), 0.3), full]
    places = ["input", "conv1", "conv2"]
    write_table(pong / "curve-input.json", "pong", early, exits=places, identity=identity)
    for place, share, cost in (("conv1", 0.89, 0.376), ("conv2", 0.97, 0.676)):
        write_table(
            pong / f"curve-student-{place}.json",
            "pong",
            [row("student", None, kept("pong", share), cost)],
            method="student",
            student_of=place,
            identity=identity,
        )
    assert cli.main(["report"]) == 0
    found = {(r["method"], r["keep"]): r for r in lines()}
    assert list(dict.fromkeys(m for m, _ in found)) == [
        "ztw",
        "sdn",
        "pbee",
        "student",
        "ztw, exits input conv1 conv2",
        "ztw, sampled",
        "ztw, 1 × 10",
    ]
    # With 0.5 alone to choose from, as the others had.
    assert found["ztw", "0.8800"]["relative_macs"] == "0.4000"
    assert found["ztw, 1 × 10", "0.8800"]["relative_macs"] == "0.6000"
    assert found["ztw, exits input conv1 conv2", "0.8800"]["relative_macs"] == "0.3000"
    assert found["student", "0.9500"]["threshold"] == "conv2"
    assert found["student", "0.8800"]["threshold"] == "conv1"
    assert found["student", "0.8800"]["relative_macs"] == "0.3760"
    assert found["pbee", "0.9500"]["threshold"] == "1"
    assert found["ztw, sampled", "0.9500"]["relative_macs"] == "0.5000"


def damaged(name):
    def damage(pong):
        path = pong / name
        path.write_bytes(path.read_bytes()[:50])
        return f"{path} is damaged"

    return damage


def missing(name):
    def damage(pong):
        (pong / name).unlink()
        return f"{pong / name} is missing; is its folder complete?"

    return damage


def another_games_weights(pong):
    save_agent(pong, make_agent("breakout"))
    return f"{pong}/agent.json plays breakout, but its folder is called pong"


def another_action_count(pong):
    save_agent(pong, make_agent("pong", n_actions=4))
    return f"{pong}/agent.json: the agent has 4 actions, but pong has 6"


def weights_that_do_not_fit(pong):
    save_agent(Path("other"), make_agent("breakout"))
    shutil.copy("other/weights.safetensors", pong)
    return f"{pong}/weights.safetensors does not fit {pong}/agent.json"


def another_agents_table(pong):
    agent = make_agent("pong")
    with torch.no_grad():
        agent.model.ics[0].linear.bias.add_(1)
    save_agent(pong, agent)
    return f"{pong}/curve.json was made with other weights than {pong}/weights.safetensors"


def another_games_table(pong):
    shutil.copy(make_folder("breakout") / "curve.json", pong)
    shutil.rmtree("agents/breakout")
    return f"{pong}/curve.json is a table of breakout, not of pong"


def another_policys_method(pong):
    rows = [row("confidence", 0.5, FULL["pong"], 0.5), row("backbone", None, FULL["pong"], 1)]
    identity = {"agent": "a", "policy": "b"}
    write_table(pong / "curve-sdn.json", "pong", rows, method="sdn", identity=identity)
    return f"{pong}/curve-sdn.json was made with other weights"


def a_student_on_other_games(pong):
    rows = [row("student", None, FULL["pong"], 0.4)]
    write_table(
        pong / "curve-student.json", "pong", rows, method="student", student_of="conv1", seed=5
    )
    return f"{pong}/curve-student.json needs the games of {pong}/curve.json: 10 greedy ones from"


def the_same_method(pong, **changes):
    """A second table of ztw at another threshold."""
    rows = [
        row("confidence", 0.6, FULL["pong"], 0.4),
        row("backbone", None, FULL["pong"], 1),
    ]
    write_table(pong / "curve-fine.json", "pong", rows, **changes)
    return f"{pong}/curve-fine.json and {pong}/curve.json are both of 'ztw', "


def the_same_method_on_other_games(pong):
    return the_same_method(pong, seed=5) + "but of other games"


def the_same_method_of_other_weights(pong):
    identity = {"agent": "0" * 16, "policy": make_agent("pong").identity().policy}
    return the_same_method(pong, identity=identity) + "but of other weights"


def the_same_method_on_another_backend(pong):
    return the_same_method(pong, backend="ONNX Runtime") + "but timed on other backends"


def the_same_setting_twice(pong):
    shutil.copy(pong / "curve.json", pong / "curve-again.json")
    return f"{pong}/curve-again.json and {pong}/curve.json are both of 'ztw', and both hold 0.2 0.5"


def the_same_student_twice(pong):
    for name in ("curve-student.json", "curve-student-2.json"):
        rows = [row("student", None, FULL["pong"], 0.4)]
        write_table(pong / name, "pong", rows, method="student", student_of="conv1")
    return "are both of 'student', and both hold conv1"


def a_poor_backbone(pong):
    rows = [row("confidence", 0.6, [-21] * 4, 0.4), row("backbone", None, [-21] * 4, 1)]
    write_table(pong / "curve.json", "pong", rows)
    return f"{pong}/curve.json: the full model is no better than random play"


def a_single_game(pong):
    rows = [row("confidence", 0.6, [1], 0.4), row("backbone", None, [1], 1)]
    write_table(pong / "curve.json", "pong", rows)
    return f"{pong}/curve.json: two halves need at least two seeds"


def nothing_at_all(pong):
    shutil.rmtree("agents")
    return "agents holds no agents; say where they are"


@pytest.mark.parametrize(
    "damage",
    [
        *(missing(name) for name in ("agent.json", "weights.safetensors", "curve.json")),
        *(damaged(name) for name in ("agent.json", "weights.safetensors", "curve.json")),
        another_games_weights,
        another_action_count,
        weights_that_do_not_fit,
        another_agents_table,
        another_games_table,
        another_policys_method,
        a_student_on_other_games,
        the_same_method_on_other_games,
        the_same_method_of_other_weights,
        the_same_method_on_another_backend,
        the_same_setting_twice,
        the_same_student_twice,
        a_poor_backbone,
        a_single_game,
        nothing_at_all,
    ],
)
def test_what_does_not_belong_together(pong, one_error, damage):
    message = damage(pong)
    assert message in one_error("report", "agents")
    assert not Path("agents/games.csv").exists()


def test_a_game_without_a_random_score(pong, one_error):
    Path("envs").mkdir()
    Path("envs/pong.yaml").write_text("{}")
    assert "the recipe of pong has no random_return" in one_error("report")


def test_settings_that_two_tables_of_a_method_share_out(pong):
    rows = [row("confidence", 0.3, kept("pong", 0.97), 0.5), row("backbone", None, FULL["pong"], 1)]
    write_table(pong / "curve-fine.json", "pong", rows)
    assert cli.main(["report"]) == 0
    assert [(r["threshold"], r["relative_macs"]) for r in lines()][1] == ("0.3", "0.5000")


def test_a_place_that_cannot_be_written(pong, one_error):
    Path("taken").write_text("in the way")
    assert "is not a folder" in one_error("report", "--output=taken")


def test_the_shipped_agents(monkeypatch):
    """What is in ``agents/`` belongs together, and its report is up to date."""
    shipped = Path(__file__).parents[2] / "agents"
    assert cli.main(["report", str(shipped), "--output=made"]) == 0
    for name in ("games.csv", "points.csv", "games.md"):
        assert Path("made", name).read_text() == (shipped / name).read_text()
