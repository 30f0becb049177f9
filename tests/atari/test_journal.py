from __future__ import annotations

import json

import numpy as np
import pytest

from ztw_rl.atari.journal import Journal
from ztw_rl.atari.seats import Game, Row
from ztw_rl.errors import UserError

HEAD = {"seed": 3}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "games.jsonl"


def ended(row: Row, number: int) -> Game:
    return Game(row, number, points=2.5, length=10, exits=np.array([7, 2, 1]), n_differ=4)


def test_an_ended_game_is_recalled_after_a_kill(path):
    journal = Journal.begin(path, HEAD)
    journal.add(ended(Row("confidence", 0.3, compared=True), 1))
    journal.add(ended(Row("backbone"), 0))
    again = Journal.reopen(path)
    assert again.head == HEAD
    assert len(again) == 2
    game = Game(Row("confidence", 0.3, compared=True), 1)
    assert again.recall(game)
    assert (game.points, game.length, game.n_differ) == (2.5, 10, 4)
    assert game.exits.tolist() == [7, 2, 1]
    assert again.recall(Game(Row("backbone"), 0))


@pytest.mark.parametrize(
    ("row", "number"),
    [
        (Row("confidence", 0.3), 2),
        (Row("confidence", 0.4), 1),
        (Row("random", 0.3, (0.5, 0.5, 0.0)), 1),
    ],
)
def test_other_games_are_still_to_be_played(path, row, number):
    journal = Journal.begin(path, HEAD)
    journal.add(ended(Row("confidence", 0.3), 1))
    game = Game(row, number)
    assert not journal.recall(game)
    assert game.points == 0


def test_a_line_that_a_kill_has_torn_is_taken_off(path):
    journal = Journal.begin(path, HEAD)
    journal.add(ended(Row("forced", 0.0), 0))
    journal.add(ended(Row("forced", 0.0), 1))
    path.write_bytes(path.read_bytes()[:-9])
    again = Journal.reopen(path)
    assert len(again) == 1
    again.add(ended(Row("forced", 0.0), 1))
    assert len(Journal.reopen(path)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing: no evaluation was stopped there"),
        ("", "is damaged"),
        ("[]\n", "is damaged (its first line is no mapping); delete it and evaluate again"),
        ("{}\n{\n", "is damaged"),
        ("{}\n{}\n", "games.jsonl, line 2: key 'rule' is missing"),
        ("{}\n[]\n", "games.jsonl, line 2: found [] (a collection)"),
    ],
)
def test_no_such_file_or_a_damaged_one(path, text, message):
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        Journal.reopen(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_line_per_game(path):
    journal = Journal.begin(path, HEAD)
    journal.add(ended(Row("patience", 2.0), 5))
    head, line = map(json.loads, path.read_text().splitlines())
    assert head == HEAD
    assert line == {
        **{"rule": "patience", "threshold": 2.0, "number": 5},
        **{"points": 2.5, "exits": [7, 2, 1], "n_differ": 4},
    }
