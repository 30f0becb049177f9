"""How much better one way to choose exits plays than another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.commands.report.tables import (
    FLOOR,
    FULL,
    identity_of,
    kept,
    lines,
    row,
    told_gains,
    write_table,
)
from ztw_rl import cli

LISTS = ("returns", "decisions", "macs", "time")


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


def test_over_games_only_the_seeds_that_all_have_count(both):
    """Also in what a return is a share of."""
    rises = np.r_[np.full(6, 0.0), np.full(4, 10.0)]
    for game, n in (("pong", 10), ("breakout", 6)):
        full = FULL[game] + rises
        rows = [
            row("confidence", 0.5, full + 1, 0.6),
            row("random", 0.5, full, 0.6),
            row("backbone", None, full, 1.0),
        ]
        cut = [{k: v[:n] if k in LISTS else v for k, v in each.items()} for each in rows]
        write_table(both / game / "curve.json", game, cut)
    assert cli.main(["report"]) == 0
    (over_all,) = [r for r in told_gains() if r["game"] == "IQM over games"]
    shares = [1 / (FULL[game][:6].mean() - FLOOR[game]) for game in ("pong", "breakout")]
    assert over_all["games"] == "6"
    assert float(over_all["gain"]) == pytest.approx(np.mean(shares), abs=1e-4)


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
