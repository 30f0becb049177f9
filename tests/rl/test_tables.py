from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ztw_rl.core.choice import Threshold
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import Identity
from ztw_rl.rl.rows import Full, RandomExits
from ztw_rl.rl.tables import StoredRow, decision_costs, game_keys, load_table

ROW = {"decisions": [10, 30], "macs": [0.4, 0.4], "time": [0.2, 0.6], "exit_share_0": 1.0}
TABLE = {
    "game": "pong",
    "agent": "somewhere",
    "thresholds": [0.5],
    "rule": "confidence",
    "seed": 3,
    "evaluation": {"n_episodes": 2, "n_envs": 32, "action_mode": "sample"},
    "backend": "eager PyTorch",
    "method": "ztw",
    "identity": {"agent": "a", "policy": "b"},
    "rows": [
        {"rule": "confidence", "threshold": 0.5, "returns": [1.0, 4.0], **ROW},
        {"rule": "random", "threshold": 0.5, "returns": [1.0, 3.0], **ROW},
        {"rule": "backbone", "threshold": None, "returns": [2.0, 4.0], **ROW},
    ],
}


def written(tmp_path, **changes):
    path = tmp_path / "curve.json"
    path.write_text(json.dumps({**TABLE, **changes}))
    return path


def test_what_is_read_back(tmp_path):
    table = load_table(written(tmp_path))
    assert (table.game, table.rule, table.seed, table.n_games) == ("pong", "confidence", 3, 2)
    assert table.action_mode == "sample"
    (row,) = table.adaptive
    assert (row.threshold, row.mean, row.std) == (0.5, 2.5, 1.5)
    assert table.backbone.returns == (2.0, 4.0)
    assert (table.identity, table.method) == (Identity("a", "b"), "ztw")
    # The longer game weighs more.
    assert row.relative_time == pytest.approx((10 * 0.2 + 30 * 0.6) / 40)
    assert decision_costs(table.adaptive, "macs").on() == pytest.approx([0.4])
    assert decision_costs(table.adaptive, "time").means.tolist() == [[0.2, 0.6]]


def test_what_tells_games_apart():
    alone = StoredRow(Full(), (1.0, 1.0, 2.0), (9, 9, 9), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    assert game_keys(alone, []) == ((1.0, 9, 1.0), (1.0, 9, 1.0), (2.0, 9, 1.0))
    early = replace(alone, who=Threshold(0.5), macs=(0.5, 0.6, 0.6))
    assert game_keys(alone, [early]) == ((1.0, 9, 0.5), (1.0, 9, 0.6), (2.0, 9, 0.6))
    # Another setting's games, if one of them went another way, are not this row's.
    for other in (replace(early, returns=(1.0, 1.0, 1.0)), replace(early, decisions=(9, 9, 8))):
        assert game_keys(alone, [other]) == game_keys(alone, [])
    # Nor do random draws tell games apart that are one and the same.
    drawn = replace(early, who=RandomExits((1.0,), Threshold(0.5)))
    assert game_keys(alone, [drawn]) == game_keys(alone, [])
    assert game_keys(drawn, [drawn]) == ((1.0, 9, 0.0), (1.0, 9, 0.0), (2.0, 9, 0.0))


def test_random_exits_are_drawn_as_often_as_the_rule_took_them(tmp_path):
    rule, control, full = TABLE["rows"]
    rows = [
        {**rule, "exit_share_0": 0.75, "exit_share_1": 0.25},
        {**control, "exit_share_0": 0.5, "exit_share_1": 0.5},
        full,
    ]
    (found,) = load_table(written(tmp_path, rows=rows)).of(RandomExits)
    assert found.who == RandomExits((0.75, 0.25), Threshold(0.5))


def test_a_students_table_has_no_backbone(tmp_path):
    rows = [{"rule": "student", "threshold": None, "returns": [1.0, 2.0], **ROW}]
    table = load_table(written(tmp_path, rows=rows, method="student", student_of="conv1"))
    assert table.backbone is None
    assert table.adaptive[0].returns == (1.0, 2.0)


def without(index):
    return [row for i, row in enumerate(TABLE["rows"]) if i != index]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": without(2)}, "lacks rows; evaluate the agent again"),
        ({"rows": without(0)}, "lacks rows"),
        ({"rows": []}, "lacks rows"),
        ({"rows": [{**TABLE["rows"][0], "rule": "student"}]}, "lacks rows"),
        (
            {"rows": [*TABLE["rows"], {**TABLE["rows"][0], "rule": "patience", "threshold": 1}]},
            "rule is confidence, but it has rows of another",
        ),
        ({"rows": 3}, "rows is 3"),
        ({"rows": [3]}, r"found 3 \(a number\), expected a mapping|rows\[0\] is 3"),
        ({"rows": [{"rule": "backbone"}]}, r"key 'rows\[0\].returns' is missing"),
        ({"rows": [*TABLE["rows"], {**TABLE["rows"][0], "returns": [1.0]}]}, "differ in their"),
        ({"rows": [*TABLE["rows"], {**TABLE["rows"][0], "macs": [0.4]}]}, "differ in their"),
        ({"rows": [{**row, "returns": []} for row in TABLE["rows"]]}, "differ in their"),
        (
            {"rows": [{**TABLE["rows"][0], "threshold": None}]},
            "has no threshold",
        ),
        ({"rows": [{**TABLE["rows"][0], "rule": "magic"}]}, "rule is 'magic'"),
        ({"game": 3}, "game is 3"),
        ({"rule": "magic"}, "rule is 'magic'"),
        ({"evaluation": None}, "is no table of ztw-rl eval"),
        ({"evaluation": {}}, "action_mode is empty"),
        ({"identity": "abc"}, "identity is 'abc'"),
    ],
)
def test_what_is_no_table(tmp_path, changes, message):
    path = written(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as raised:
        load_table(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["[]", "3", "{}"])
def test_other_json(tmp_path, text):
    path = tmp_path / "curve.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"curve\.json is no table of ztw-rl eval"):
        load_table(path)
