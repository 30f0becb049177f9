from __future__ import annotations

import errno
import os
import stat
import sys

import pytest

from ztw_rl.core.files import load_json, lock, save_json, subfolders, write_atomically
from ztw_rl.errors import UserError


@pytest.mark.parametrize("exists", [True, False])
def test_a_crash_in_the_middle_of_writing_leaves_the_old_file(tmp_path, exists):
    path = tmp_path / "file.json"
    if exists:
        path.write_text("old")

    def half(temporary):
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file.json", "old")] * exists


def test_the_file_is_never_seen_half_written(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def slow(temporary):
        temporary.write_text("ne")
        assert path.read_text() == "old"
        temporary.write_text("new")

    write_atomically(path, slow)
    assert path.read_text() == "new"


def test_files_get_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        save_json(tmp_path / "file.json", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.json").stat().st_mode) == 0o640


def test_json_comes_back_and_nan_is_refused(tmp_path):
    path = tmp_path / "a.json"
    save_json(path, {"τ": [0.5, None]})
    assert load_json(path) == {"τ": [0.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        save_json(path, float("nan"))
    assert load_json(path) == {"τ": [0.5, None]}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_damaged_json(tmp_path, content):
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"a.json is missing"):
        load_json(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.json is damaged"):
        load_json(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_a_file_system_without_locks_counts_as_free(tmp_path, monkeypatch):
    def refuse(number):
        def flock(file, operation):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("fcntl.flock", flock)

    with (tmp_path / "file").open("wb") as file:
        refuse(errno.ENOLCK)
        assert lock(file)
        refuse(errno.EAGAIN)
        assert not lock(file)
        refuse(errno.EBADF)
        with pytest.raises(OSError, match="Bad file"):
            lock(file)


@pytest.mark.parametrize("name", ["", "file/below.json"])
def test_json_that_cannot_be_read(tmp_path, name):
    (tmp_path / "file").write_text("{}")
    with pytest.raises(UserError, match=r"cannot read .*: (Is|Not) a directory"):
        load_json(tmp_path / name)


def test_hidden_folders_and_files_are_no_subfolders(tmp_path):
    for name in ("b", "a", ".git", "_old"):
        (tmp_path / name).mkdir()
    (tmp_path / "c").write_text("")
    assert [path.name for path in subfolders(tmp_path)] == ["a", "b"]
    assert subfolders(tmp_path / "nowhere") == []
