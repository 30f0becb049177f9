from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from ztw_rl.core.choice import Forced, Patience, Threshold
from ztw_rl.errors import UserError
from ztw_rl.rl.journal import Journal
from ztw_rl.rl.play import Game
from ztw_rl.rl.rows import Full, RandomExits, Row

HEAD = {"seed": 3}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "games.jsonl"


@pytest.fixture
def journal(path):
    with Journal.begin(path, HEAD) as journal:
        yield journal


def ended(row: Row, number: int) -> Game:
    exits = np.array([7, 2, 1])
    return Game(row, number, 2.5, length=10, exits=exits, n_differ=4, start=3, film=9)


def test_an_ended_game_is_recalled_after_a_kill(path):
    with Journal.begin(path, HEAD) as journal:
        journal.add(ended(Row(Threshold(0.3), compared=True), 1))
        journal.add(ended(Row(Full()), 0))
    with Journal.reopen(path) as again:
        assert again.head == HEAD
        assert len(again) == 2
        game = Game(Row(Threshold(0.3), compared=True), 1)
        assert again.recall(game)
        assert (game.points, game.length, game.n_differ) == (2.5, 10, 4)
        assert game.exits.tolist() == [7, 2, 1]
        assert (game.start, game.film) == (3, 9)
        assert again.recall(Game(Row(Full()), 0))


@pytest.mark.parametrize(
    ("row", "number"),
    [
        (Row(Threshold(0.3)), 2),
        (Row(Threshold(0.4)), 1),
        (Row(RandomExits((0.5, 0.5, 0.0), Threshold(0.3))), 1),
    ],
)
def test_other_games_are_still_to_be_played(journal, row, number):
    journal.add(ended(Row(Threshold(0.3)), 1))
    game = Game(row, number)
    assert not journal.recall(game)
    assert game.points == 0


@pytest.mark.parametrize("n_bytes", [1, 9])
def test_a_line_that_a_kill_has_torn_is_taken_off(path, n_bytes):
    with Journal.begin(path, HEAD) as journal:
        journal.add(ended(Row(Forced(0)), 0))
        journal.add(ended(Row(Forced(0)), 1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-n_bytes])
    with Journal.reopen(path) as again:
        assert len(again) == 1
        again.add(ended(Row(Forced(0)), 1))
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing: no evaluation was stopped there"),
        ("", "is damaged (its first line is no mapping); delete it and evaluate again"),
        ("[]\n", "is damaged (its first line is no mapping); delete it and evaluate again"),
        ("{}\n{\n", "is damaged"),
        ("{}\n\xff\n", "is damaged"),
        ("{}\n{}\n", "is damaged (line 2: key 'rule' is missing); delete it"),
        ("{}\n[]\n", "is damaged (line 2: found [] (a collection)"),
    ],
)
def test_no_such_file_or_a_damaged_one(path, text, message):
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as error:
        Journal.reopen(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_in_its_place(path):
    path.mkdir()
    with pytest.raises(UserError, match=r"cannot write to .*games\.jsonl: "):
        Journal.reopen(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows is not asked for locks")
def test_one_process_at_a_time(journal):
    with pytest.raises(UserError, match="is being written: that evaluation is still going on"):
        Journal.reopen(journal.path)
    journal.close()
    Journal.reopen(journal.path).close()


def test_a_full_disk_at_the_beginning_leaves_nothing(path, monkeypatch):
    def full(self, line):
        self._file.write(line[:3])
        raise UserError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", full)
        with pytest.raises(UserError, match="No space"):
            Journal.begin(path, HEAD)
    assert not path.exists()
    Journal.begin(path, HEAD).close()


def test_a_full_disk_is_one_line(journal, monkeypatch):
    class FullDisk:
        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    journal.close()
    monkeypatch.setattr(journal, "_file", FullDisk())
    with pytest.raises(UserError, match=r"cannot write to .*: No space left on device"):
        journal.add(ended(Row(Full()), 0))
    assert not journal.recall(Game(Row(Full()), 0))


def test_one_line_per_game(journal):
    journal.add(ended(Row(Patience(2)), 5))
    head, line = map(json.loads, journal.path.read_text().splitlines())
    assert head == HEAD
    assert line == {
        **{"rule": "patience", "threshold": 2.0, "number": 5},
        **{"points": 2.5, "exits": [7, 2, 1], "n_differ": 4, "start": 3, "film": 9},
    }


def test_it_goes_when_the_table_is_there(journal):
    journal.remove()
    assert not journal.path.exists()


def test_it_is_begun_once(path, journal):
    journal.add(ended(Row(Full()), 0))
    with pytest.raises(UserError, match=r"holds the games of an evaluation that was begun before"):
        Journal.begin(path, {"seed": 4})
    journal.close()
    with Journal.reopen(path) as again:
        assert (again.head, len(again)) == (HEAD, 1)
