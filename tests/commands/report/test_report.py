"""Agents side by side."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tests.commands.report.tables import (
    FULL,
    kept,
    lines,
    make_agent,
    make_variant,
    row,
    told_gains,
    write_table,
)
from ztw_rl import cli


def test_one_game(pong, capsys):
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out.endswith("points.csv, games.md, games.png\n")
    assert not Path("agents/games-sampled.png").exists()
    found = lines()
    assert [(r["game"], r["method"]) for r in found] == [("pong", "ztw")] * 3
    assert list(found[0])[:5] == ["game", "method", "keep", "relative_macs", "threshold"]
    assert [r["keep"] for r in found] == ["0.9900", "0.9500", "0.8800"]
    assert [r["relative_macs"] for r in found] == ["0.9000", "0.6000", "0.4000"]
    assert [r["relative_time"] for r in found] == ["0.8500", "0.7000", "0.6000"]
    assert [r["threshold"] for r in found] == ["0.9", "0.5", "0.2"]
    assert [float(r["kept"]) for r in found] == pytest.approx([0.995, 0.96, 0.9])
    assert [r["separated"] for r in found] == ["yes"] * 3
    text = Path("agents/games.md").read_text()
    cells = ["0.900, 0.85, 99.5% (0.9)", "0.600, 0.70, 96.0% (0.5)", "0.400, 0.60, 90.0% (0.2)"]
    assert f"| pong | ztw | 3 × 10 | {' | '.join(cells)} |" in text
    assert (found[0]["settings"], found[0]["games"]) == ("3", "10")
    assert "10 full games per setting; times: eager PyTorch, one thread." in text
    assert Path("agents/games.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_tables_give_the_same_bytes(both):
    assert cli.main(["report", "agents", "--output=a"]) == 0
    assert cli.main(["report", "agents/", "--output=b"]) == 0
    for name in ("games.csv", "gains.csv", "points.csv", "games.md", "games.png"):
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


def test_tables_whose_games_hardly_differ_are_marked(pong):
    assert cli.main(["report"]) == 0
    assert {r["alike"] for r in lines()} == {"no"}
    assert "≈" not in Path("agents/games.md").read_text()
    for n_distinct, marked in ((6, "no"), (5, "yes")):
        same = np.r_[FULL["pong"][:n_distinct], [FULL["pong"][0]] * (10 - n_distinct)]
        alike = [row("confidence", 0.5, same, 0.6), row("backbone", None, same, 1.0)]
        write_table(pong / "curve.json", "pong", alike)
        assert cli.main(["report"]) == 0
        assert {r["alike"] for r in lines()} == {marked}
    text = Path("agents/games.md").read_text()
    assert ") ≈ |" in text
    assert "≈: at most half of the full policy's games differ" in text


def test_games_that_only_look_alike_are_not_marked(pong):
    same = [FULL["pong"].mean()] * 10
    early = row("confidence", 0.5, same, 0.6) | {"macs": list(np.linspace(0.5, 0.7, 10))}
    write_table(pong / "curve.json", "pong", [early, row("backbone", None, same, 1.0)])
    assert cli.main(["report"]) == 0
    assert {r["alike"] for r in lines()} == {"no"}


def test_a_chosen_setting_whose_games_hardly_differ_is_marked(pong):
    same = [FULL["pong"].mean()] * 10
    rows = [row("confidence", 0.5, same, 0.6), row("backbone", None, FULL["pong"], 1.0)]
    write_table(pong / "curve.json", "pong", rows)
    assert cli.main(["report"]) == 0
    assert {r["alike"] for r in lines()} == {"yes"}


def test_where_nothing_keeps_enough_the_backbone_stands_in(pong):
    poor = [
        row("confidence", 0.5, kept("pong", 0.5), 0.6),
        row("backbone", None, FULL["pong"], 1.0),
    ]
    write_table(pong / "curve.json", "pong", poor)
    assert cli.main(["report"]) == 0
    assert {(r["relative_macs"], r["threshold"]) for r in lines()} == {("1.0000", "backbone")}


def test_methods_are_compared_with_the_papers_form(pong):
    """Of the recommended agent, in the game's folder, and of the paper's, which may be one."""
    shutil.copytree(pong, "paper")
    shutil.move("paper", pong)
    assert cli.main(["report"]) == 0
    alone = lines()
    assert {r["method"] for r in alone if "," not in r["method"]} == {"ztw"}
    variant = make_variant(pong, ("input", "conv1"))
    full = row("backbone", None, FULL["pong"], 1.0)
    early = [row("confidence", 0.5, kept("pong", 0.89), 0.3), full]
    told = {"exits": ["input", "conv1"], "identity": asdict(variant.identity())}
    write_table(pong / "input" / "curve.json", "pong", early, **told)
    for path in (pong / "input").iterdir():
        shutil.move(path, pong / path.name)
    (pong / "input").rmdir()
    assert cli.main(["report"]) == 0
    both = lines()
    assert {r["method"] for r in both} - {r["method"] for r in alone} == {"ztw, exits input conv1"}
    assert [r for r in both if r["method"] == "ztw"] == [r for r in alone if r["method"] == "ztw"]


def test_equal_starts_are_told(both):
    assert cli.main(["report"]) == 0
    text = Path("agents/games.md").read_text()
    assert (
        "Equal starts (noop_max 0, every game begins after the same frame): breakout, pong.\n"
        in text
    )
    table = json.loads(Path("agents/pong/curve.json").read_text())
    table["evaluation"]["noop_max"] = 30
    Path("agents/pong/curve.json").write_text(json.dumps(table))
    assert cli.main(["report"]) == 0
    assert "same frame): breakout.\n" in Path("agents/games.md").read_text()


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
    variant = make_variant(pong, tuple(places))
    how_told = {"exits": places, "identity": asdict(variant.identity())}
    write_table(pong / "input" / "curve.json", "pong", early, **how_told)
    finer = [row("confidence", 0.4, kept("pong", 0.89), 0.2), full]
    write_table(pong / "input" / "curve-fine.json", "pong", finer, **how_told)
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
        "ztw, at 0.5",
    ]
    # With 0.5 alone to choose from, as the others had.
    assert found["ztw", "0.8800"]["relative_macs"] == "0.4000"
    assert found["ztw, at 0.5", "0.8800"]["relative_macs"] == "0.6000"
    assert found["ztw, exits input conv1 conv2", "0.8800"]["relative_macs"] == "0.2000"
    with Path("agents/points.csv").open() as file:
        thresholds = [r["threshold"] for r in csv.DictReader(file) if "exits" in r["method"]]
    assert thresholds == ["0.4", "0.5"]
    assert found["student", "0.9500"]["threshold"] == "conv2"
    assert found["student", "0.8800"]["threshold"] == "conv1"
    assert found["student", "0.8800"]["relative_macs"] == "0.3760"
    assert found["pbee", "0.9500"]["threshold"] == "1"
    assert found["ztw, sampled", "0.9500"]["relative_macs"] == "0.5000"
    # Of the one and of the other way to choose actions.
    for name in ("games.png", "games-sampled.png"):
        assert Path("agents", name).read_bytes().startswith(b"\x89PNG")


def test_a_variant_with_the_same_exits_is_told_by_its_name(pong):
    variant = make_variant(pong, ("conv1", "conv2"))
    shutil.move(pong / "conv1", pong / "gentle")
    rows = [row("confidence", 0.5, kept("pong", 0.99), 0.5), row("backbone", None, FULL["pong"], 1)]
    table = {"exits": ["conv1", "conv2"], "identity": asdict(variant.identity())}
    write_table(pong / "gentle" / "curve.json", "pong", rows, **table)
    (pong / ".old").mkdir()
    shutil.copy(pong / "agent.json", pong / ".old")
    assert cli.main(["report"]) == 0
    assert {r["method"] for r in lines()} == {"ztw", "ztw, gentle"}


def test_settings_that_two_tables_of_a_method_share_out(pong):
    rows = [
        row("confidence", 0.3, kept("pong", 0.97), 0.5),
        row("random", 0.3, kept("pong", 0.6), 0.5),
        row("backbone", None, FULL["pong"], 1),
    ]
    write_table(pong / "curve-fine.json", "pong", rows)
    assert cli.main(["report"]) == 0
    assert [(r["threshold"], r["relative_macs"]) for r in lines()][1] == ("0.3", "0.5000")
    # The controls as well: 0.5 of the one, 0.3 of the other.
    assert [r["settings"] for r in told_gains()] == ["2"]


def test_the_shipped_agents():
    """What is in ``agents/`` belongs together, and its report is up to date."""
    shipped = Path(__file__).parents[3] / "agents"
    assert cli.main(["report", str(shipped), "--output=made"]) == 0
    for name in ("games.csv", "gains.csv", "points.csv", "games.md"):
        assert Path("made", name).read_text() == (shipped / name).read_text()


def test_controls_that_ask_no_confidence(both):
    for game in ("pong", "breakout"):
        own = [
            row("confidence", 0.5, kept(game, 0.96), 0.6),
            row("random", 0.5, kept(game, 0.9), 0.6),
            row("forced", 0, kept(game, 0.8), 0.4),
            row("forced", 1, kept(game, 0.97), 0.7),
            row("forced", 2, FULL[game], 1.04),
            row("backbone", None, FULL[game], 1.0),
        ]
        write_table(Path("agents", game, "curve.json"), game, own)
    assert cli.main(["report"]) == 0
    found = {(r["game"], r["method"]): r for r in lines(controls=True) if r["keep"] == "0.9500"}
    for game in ("pong", "breakout", "IQM over games"):
        assert found[game, "ztw"]["threshold"] == "0.5"
        # Random exits keep too little, exit 0 as well.
        assert found[game, "ztw, random exits"]["threshold"] == "backbone"
        assert found[game, "ztw, one exit"]["threshold"] == "exit 1"
    assert len(found) == 9
