"""Agents side by side."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.commands.report.tables import FLOOR, FULL, kept, make_agent, row, write_table
from ztw_rl import cli

CONTROLS = ("one exit", "random exits")
LISTS = ("returns", "decisions", "macs", "time")


def lines(*, controls: bool = False) -> list[dict[str, str]]:
    """Of the table of levels, with or without the controls'."""
    with Path("agents/games.csv").open() as file:
        return [
            r
            for r in csv.DictReader(file)
            if controls or r["method"].split(", ")[-1] not in CONTROLS
        ]


def test_one_game(pong, capsys):
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out.endswith("points.csv, games.md, games.png\n")
    assert not Path("agents/games-sampled.png").exists()
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
        "ztw, at 0.5",
    ]
    # With 0.5 alone to choose from, as the others had.
    assert found["ztw", "0.8800"]["relative_macs"] == "0.4000"
    assert found["ztw, at 0.5", "0.8800"]["relative_macs"] == "0.6000"
    assert found["ztw, exits input conv1 conv2", "0.8800"]["relative_macs"] == "0.3000"
    assert found["student", "0.9500"]["threshold"] == "conv2"
    assert found["student", "0.8800"]["threshold"] == "conv1"
    assert found["student", "0.8800"]["relative_macs"] == "0.3760"
    assert found["pbee", "0.9500"]["threshold"] == "1"
    assert found["ztw, sampled", "0.9500"]["relative_macs"] == "0.5000"
    # Of the one and of the other way to choose actions.
    for name in ("games.png", "games-sampled.png"):
        assert Path("agents", name).read_bytes().startswith(b"\x89PNG")


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


def told_gains() -> list[dict[str, str]]:
    with Path("agents/gains.csv").open() as file:
        return list(csv.DictReader(file))


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


def test_what_confidence_brings_is_counted_seed_by_seed(pong):
    write_table(
        pong / "curve.json",
        "pong",
        [row("confidence", 0.5, FULL["pong"], 0.6), row("backbone", None, FULL["pong"], 1)],
    )
    assert cli.main(["report"]) == 0
    assert told_gains() == []
    random = kept("pong", 0.9, spread=8)
    scale = FULL["pong"].mean() + 20.2
    own = [
        row("confidence", 0.5, random + 0.05 * scale, 0.6),
        row("random", 0.5, random, 0.6),
        row("confidence", 0.7, random - 0.01 * scale, 0.8),
        row("random", 0.7, random, 0.8),
        row("backbone", None, FULL["pong"], 1.0),
    ]
    write_table(pong / "curve.json", "pong", own)
    assert cli.main(["report"]) == 0
    (found,) = told_gains()
    # Without its own luck: however the games went, 5 % more at the one, 1 % less at the other.
    assert found == {
        **{"game": "pong", "method": "ztw", "over": "random exits"},
        **{"settings": "2", "differing": "2", "games": "10", "alike": "no"},
        **{"gain": "0.0200", "gain_ci_low": "0.0200", "gain_ci_high": "0.0200"},
        **{"relative_macs": "0.7000", "over_relative_macs": "0.7000"},
    }
    text = Path("agents/games.md").read_text()
    line = "| pong | ztw | random exits | 2 (2) × 10 | +2.0% (+2.0% … +2.0%) | 0.700, 0.700 |"
    assert line in text


def identity_of(game: str) -> dict[str, str]:
    """Of other weights that imitate the same policy."""
    return {"agent": "0" * 16, "policy": make_agent(game).identity().policy}


def test_what_confidence_brings_on_the_terms_of_a_smaller_table(pong):
    """Beside six games of 0.5 alone, the agent's own gain is also that of six games of 0.5."""
    random = kept("pong", 0.9, spread=8)
    scores = FULL["pong"] + np.r_[np.full(6, 4.0), np.zeros(4)]
    of_ten, of_six = scores.mean() + 20.2, scores[:6].mean() + 20.2
    full = row("backbone", None, scores, 1.0)
    own = [
        row("confidence", 0.5, random + np.r_[np.full(6, 1.0), np.full(4, 3.0)], 0.6),
        row("random", 0.5, random, 0.6),
        row("confidence", 0.7, random - 0.5, 0.8),
        row("random", 0.7, random, 0.8),
        full,
    ]
    write_table(pong / "curve.json", "pong", own)
    assert cli.main(["report"]) == 0
    note = "Choices from more settings tend to be cheaper"
    assert note not in Path("agents/games.md").read_text()
    theirs = row("confidence", 0.5, np.subtract(own[0]["returns"], 2), 0.6)
    smaller = [each | {k: each[k][:6] for k in LISTS} for each in (theirs, own[1], full)]
    write_table(
        pong / "curve-sdn.json", "pong", smaller, method="sdn", identity=identity_of("pong")
    )
    assert cli.main(["report"]) == 0
    found = {
        (r["method"], r["over"]): (r["settings"], r["games"], float(r["gain"]))
        for r in told_gains()
    }
    by_hand = {
        ("ztw", "random exits"): ("2", "10", (6 * 0.25 + 4 * 1.25) / 10 / of_ten),
        ("sdn", "random exits"): ("1", "6", -1 / of_six),
        ("ztw, at 0.5", "random exits"): ("1", "6", 1 / of_six),
        ("ztw", "sdn"): ("1", "6", 2 / of_six),
    }
    assert found == {
        m: (s, n, pytest.approx(gain, abs=6e-5)) for m, (s, n, gain) in by_hand.items()
    }
    assert note in Path("agents/games.md").read_text()


def test_the_agents_method_over_others(both):
    """At the thresholds that both have, on the seeds that both have; then over games."""
    grids = {"pong": (0.5, 0.7, 0.9), "breakout": (0.3, 0.7, 0.5)}
    for game, lead, cost in (("pong", 0.06, 0.6), ("breakout", 0.02, 0.5)):
        full = row("backbone", None, FULL[game], 1.0)
        ours = kept(game, 0.9, spread=8)
        scale = FULL[game].mean() - FLOOR[game]
        own = [row("confidence", t, ours, cost) for t in grids[game]]
        write_table(Path("agents", game, "curve.json"), game, [*own, full])
        # At 0.3 and 0.9 its lead would be another one.
        behind = {0.3: 1.0, 0.5: lead, 0.7: 0.0, 0.9: 1.0}
        theirs = [
            row("confidence", t, ours - behind[t] * scale, cost - 0.1)
            for t in (0.5, 0.7, *((0.3,) if game == "breakout" else ()))
        ]
        other = {"identity": identity_of(game)}
        for name, rows, changes in (
            ("sdn", [*theirs, full], {"method": "sdn", **other}),
            # Patience 0.5 is no common setting, sampled games and another full policy's are others.
            (
                "patient",
                [*({**r, "rule": "patience"} for r in theirs), full],
                {"method": "cascade", "rule": "patience", **other},
            ),
            ("sampled", [*theirs, full], {"evaluation": {"action_mode": "sample"}}),
            (
                "ensemble",
                [*theirs, row("backbone", None, FULL[game] + 1, 1.0)],
                {"method": "ensemble", **other},
            ),
        ):
            write_table(Path("agents", game, f"curve-{name}.json"), game, rows, **changes)
    assert cli.main(["report"]) == 0
    columns = ("game", "method", "over", "settings", "differing", "games", "gain", "gain_ci_low")
    assert [[r[name] for name in columns] for r in told_gains()] == [
        ["breakout", "ztw", "sdn", "3", "2", "10", "0.3400", "0.3400"],
        ["pong", "ztw", "sdn", "2", "1", "10", "0.0300", "0.0300"],
        # At 0.5 and 0.7, which both games have: 0.01 and 0.03.
        ["IQM over games", "ztw", "sdn", "2", "1", "10", "0.0200", "0.0200"],
    ]
    costs = [(r["relative_macs"], r["over_relative_macs"]) for r in told_gains()]
    assert costs == [("0.5000", "0.4000"), ("0.6000", "0.5000"), ("0.5500", "0.4500")]
    text = Path("agents/games.md").read_text()
    assert "| ztw | sdn | 2 (1) × 10 | +3.0% (+3.0% … +3.0%) | 0.600, 0.500 |" in text


def test_what_a_single_game_has_is_not_counted_twice(both):
    """Two methods with two thresholds each: the agent's own on the terms of either.

    But not on those of a threshold that it lacks, nor of patience.
    """
    full = row("backbone", None, FULL["breakout"], 1.0)
    for method, rule, grid in (
        ("sdn", "confidence", (0.2, 0.5)),
        ("cascade", "confidence", (0.5, 0.9)),
        ("ensemble", "confidence", (0.2, 0.6)),
        ("sdn", "patience", (0.2, 0.9)),
    ):
        rows = [row(rule, t, kept("breakout", 0.9), t) for t in grid]
        write_table(
            Path("agents/breakout", f"curve-{method}-{rule}.json"),
            "breakout",
            [*rows, full],
            method=method,
            rule=rule,
            identity=identity_of("breakout"),
        )
    assert cli.main(["report"]) == 0
    methods = {game: [r["method"] for r in lines()[::3] if r["game"] == game] for game in FULL}
    own = [name for name in methods["breakout"] if name.startswith("ztw")]
    assert own == ["ztw", "ztw, at 0.5 0.9", "ztw, at 0.2 0.5"]
    assert methods["pong"] == ["ztw"]
    assert [r["method"] for r in lines() if r["game"] == "IQM over games"] == ["ztw"] * 3
    over_games = [r for r in told_gains() if r["game"] == "IQM over games"]
    assert [(r["method"], r["over"]) for r in over_games] == [("ztw", "random exits")]


@pytest.mark.parametrize(("n_distinct", "alike"), [(6, "no"), (5, "yes")])
def test_gains_that_few_games_make_are_marked(pong, n_distinct, alike):
    """Where both played the same games, their likeness does not count."""
    scores = FULL["pong"]
    few = np.r_[scores[:n_distinct], [scores[0]] * (10 - n_distinct)]
    same = [scores[0]] * 10
    own = [
        row("confidence", 0.5, few, 0.6),
        row("random", 0.5, scores, 0.6),
        row("confidence", 0.7, same, 0.8),
        row("random", 0.7, same, 0.8),
        row("backbone", None, scores, 1.0),
    ]
    write_table(pong / "curve.json", "pong", own)
    assert cli.main(["report"]) == 0
    (found,) = told_gains()
    assert (found["alike"], found["settings"], found["differing"]) == (alike, "2", "1")
    text = Path("agents/games.md").read_text()
    assert ("%) ≈ | 0.700, 0.700 |" in text) is (alike == "yes")


def test_the_agents_own_table_need_not_be_of_the_first_method(pong):
    """The one that is called ``curve.json`` is the agent's."""
    full = row("backbone", None, FULL["pong"], 1.0)
    own = [row("confidence", 0.5, kept("pong", 0.9), 0.6), row("forced", 0, FULL["pong"], 0.4)]
    last = row("forced", 1, FULL["pong"], 1.04)
    write_table(pong / "curve.json", "pong", [*own, last, full], method="sdn")
    better = [row("confidence", 0.5, kept("pong", 0.95), 0.6), full]
    write_table(
        pong / "curve-c.json", "pong", better, method="cascade", identity=identity_of("pong")
    )
    assert cli.main(["report"]) == 0
    found = [(r["method"], r["over"], r["gain"]) for r in told_gains()]
    assert found == [("sdn", "cascade", "-0.0500")]
    assert "sdn, one exit" in {r["method"] for r in lines(controls=True)}
