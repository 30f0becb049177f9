from __future__ import annotations

import errno
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from ztw_rl import runs
from ztw_rl.errors import UserError


@dataclass(frozen=True)
class Config:
    seed: int
    names: tuple[str, ...] = ("a", "b")


def test_numbers_go_up_per_kind_and_game(tmp_path):
    def create(kind: str, game: str) -> str:
        return str(runs.create(tmp_path, kind, game, Config(0)).relative_to(tmp_path))

    assert create("ppo", "pong") == "ppo/pong-001"
    assert create("ppo", "pong") == "ppo/pong-002"
    assert create("ppo", "qbert") == "ppo/qbert-001"
    assert create("eval", "pong") == "eval/pong-001"


def test_a_gap_is_not_filled(tmp_path):
    (tmp_path / "ppo" / "pong-009").mkdir(parents=True)
    assert runs.create(tmp_path, "ppo", "pong", Config(0)).name == "pong-010"


def test_runs_created_at_the_same_time_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: runs.create(tmp_path, "ppo", "pong", Config(i)), range(24)))
    assert sorted(p.name for p in made) == [f"pong-{n:03d}" for n in range(1, 25)]
    assert [runs.load_config(Config, path).seed for path in made] == list(range(24))
    assert sorted((tmp_path / "ppo").iterdir()) == sorted(made)


def test_config_round_trip(tmp_path):
    config = Config(3, ("x",))
    run_dir = runs.create(tmp_path, "ppo", "pong", config)
    assert runs.load_config(Config, run_dir) == config


def test_newest_is_the_run_started_or_resumed_last(tmp_path):
    first, second, other = (
        runs.create(tmp_path, "ppo", game, Config(0)) for game in ("pong", "pong", "qbert")
    )
    for age, run_dir in enumerate((other, second, first)):
        os.utime(run_dir / "config.json", (1000 - age, 1000 - age))
    assert runs.newest(tmp_path, "ppo") == other
    assert runs.newest(tmp_path, "ppo", "pong") == second
    runs.save_config(first, Config(0))
    assert runs.newest(tmp_path, "ppo") == first


def test_equal_times_are_ordered_by_number(tmp_path):
    made = [runs.create(tmp_path, "ppo", "pong", Config(0)) for _ in range(3)]
    for run_dir in made:
        os.utime(run_dir / "config.json", (1000, 1000))
    assert runs.newest(tmp_path, "ppo", "pong") == made[-1]


def test_no_run_yet(tmp_path):
    assert runs.newest(tmp_path, "ppo") is None
    (tmp_path / "ppo" / "pong-001").mkdir(parents=True)
    (tmp_path / "ppo" / "notes.txt").touch()
    assert runs.newest(tmp_path, "ppo") is None


def test_a_file_in_the_folders_place(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(UserError, match=r"cannot write to .*runs.* is not a folder"):
        runs.create(tmp_path / "runs", "ppo", "pong", Config(0))


def test_a_folder_without_permission(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=f"permission denied in {tmp_path}"):
        runs.create(tmp_path / "runs", "ppo", "pong", Config(0))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(run_dir, config):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "save_config", fail)
    with pytest.raises(UserError, match="No space left"):
        runs.create(tmp_path, "ppo", "pong", Config(0))
    assert not list((tmp_path / "ppo").iterdir())


def test_settings_that_no_file_can_hold_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        runs.create(tmp_path, "ppo", "pong", Config(float("nan")))
    assert not list((tmp_path / "ppo").iterdir())


def test_newest_of_those_that_can_be_resumed(tmp_path):
    first, second = (runs.create(tmp_path, "ppo", "pong", Config(0)) for _ in range(2))
    assert runs.newest(tmp_path, "ppo", holding=runs.CHECKPOINT) is None
    (second / "checkpoints" / ".step_000000016").mkdir(parents=True)
    (first / "checkpoints" / "step_000000016").mkdir(parents=True)
    assert runs.newest(tmp_path, "ppo", holding=runs.CHECKPOINT) == first
    assert runs.newest(tmp_path, "ppo") == second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing"),
        ('{"seed": 1', "is damaged"),
        (json.dumps({"seed": "x"}), "seed is 'x'"),
    ],
)
def test_configs_that_cannot_be_used(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        runs.load_config(Config, tmp_path)


def test_a_setting_that_this_version_does_not_know(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 1, "nmaes": ["a"]}))
    with pytest.raises(
        UserError, match=r"unknown key 'nmaes'.* another version of ztw-rl began the run"
    ):
        runs.load_config(Config, tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        runs.load_config(Config, tmp_path / "pong-001")


def test_a_run_is_one_process_at_a_time(tmp_path):
    with (
        runs.claimed(tmp_path),
        pytest.raises(UserError, match="is still going on; stop it first, or name another run"),
        runs.claimed(tmp_path),
    ):
        pass
    with runs.claimed(tmp_path):
        pass
    with pytest.raises(UserError, match=r"cannot write to .*nowhere: No such file"):
        runs.claimed(tmp_path / "nowhere").__enter__()
