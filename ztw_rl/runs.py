"""Run folders: ``runs/<kind>/<game>-<number>``, each with the resolved ``config.json``."""

from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ztw_rl.core.files import load_json, lock, save_json
from ztw_rl.errors import UserError
from ztw_rl.settings import parse_stored

T = TypeVar("T")

CONFIG = "config.json"
CHECKPOINT = "checkpoints/step_*"
"""Pattern of what a run can be resumed from; see ``core.checkpoint``."""
LOCK = ".lock"
"""Locked by whoever writes the run."""
_NUMBERED = re.compile(r"(?P<game>.+)-(?P<number>\d+)")


def create(root: Path, kind: str, game: str, config: Any) -> Path:
    """Make the next run folder of a game; it appears at once and with its config inside.

    Args:
        root: Usually ``runs``.
        kind: ``ppo``, ``distill``, ``eval``.
        game: Name without separators, such as ``mspacman``.
        config: Dataclass with all settings of the run.

    Raises:
        UserError: ``root`` cannot be written.
    """
    folder = root / kind
    check_writable(folder)
    draft = folder / f".{game}-{uuid.uuid4().hex}"
    try:
        draft.mkdir(parents=True)
        save_config(draft, config)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write to {folder}: {error.strerror}") from None
        raise
    while True:
        taken = [number for name, number, _ in _numbered(folder) if name == game]
        target = folder / f"{game}-{max(taken, default=0) + 1:03d}"
        try:
            # Fails if another process took the number meanwhile: its folder is not empty.
            draft.rename(target)
        except OSError:
            if not target.exists():
                raise
        else:
            return target


@contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Have a run to oneself; it is free again however the process ends.

    Raises:
        UserError: It is another process's, or cannot be written.
    """
    try:
        file = (run_dir / LOCK).open("ab")
    except OSError as error:
        raise UserError(f"cannot write to {run_dir}: {error.strerror}") from None
    with file:
        if not lock(file):
            raise UserError(f"{run_dir} is still going on; stop it first, or name another run")
        yield


def newest(root: Path, kind: str, game: str | None = None, holding: str = CONFIG) -> Path | None:
    """The first of ``by_age``, or None if there is none."""
    return next(iter(by_age(root, kind, game, holding)), None)


def by_age(root: Path, kind: str, game: str | None = None, holding: str = CONFIG) -> list[Path]:
    """Runs, from the one that was started or resumed last to the first.

    Args:
        root: Usually ``runs``.
        kind: ``ppo``, ``distill``, ``eval``.
        game: Only runs of this game; of any by default.
        holding: Only runs that hold a file of this name or pattern, such as a ``CHECKPOINT``, or
            a result that comes last.
    """
    runs = [
        ((path / CONFIG).stat().st_mtime_ns, number, path)
        for name, number, path in _numbered(root / kind)
        if game in (None, name) and (path / CONFIG).is_file() and any(path.glob(holding))
    ]
    return [path for *_, path in sorted(runs, reverse=True)]


def _numbered(folder: Path) -> list[tuple[str, int, Path]]:
    """Game, number and path of every run folder."""
    if not folder.is_dir():
        return []
    found = ((_NUMBERED.fullmatch(path.name), path) for path in folder.iterdir())
    return [
        (match["game"], int(match["number"]), path)
        for match, path in found
        if match and not path.name.startswith(".") and path.is_dir()
    ]


def save_config(run_dir: Path, config: Any) -> None:
    """Write a dataclass as ``run_dir/config.json``, atomically."""
    save_json(run_dir / CONFIG, dataclasses.asdict(config))


def load_config(kind: type[T], run_dir: Path) -> T:
    """Read ``run_dir/config.json`` into dataclass ``kind``.

    Raises:
        UserError: There is no such run, or its config is missing, damaged or another version's.
    """
    if not run_dir.is_dir():
        raise UserError(f"there is no run folder {run_dir}")
    stored = load_json(run_dir / CONFIG)
    try:
        return parse_stored(kind, stored, run_dir / CONFIG)
    except UserError as error:
        raise UserError(
            f"{error}; if nobody edited it, another version of ztw-rl began the run: go on with "
            "that one, or begin anew"
        ) from None


def check_writable(folder: Path) -> None:
    """Find out whether ``folder`` could be created and written, without creating it.

    Raises:
        UserError: It could not.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"cannot write to {folder}: {existing} is not a folder")
    try:
        # Permissions alone do not tell: read-only file systems and root's view of them differ.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot write to {folder}: {reason} in {existing}") from None


def check_writable_file(path: Path) -> None:
    """Find out whether a file could be created or replaced, without doing so.

    Raises:
        UserError: It could not.
    """
    if path.is_dir():
        raise UserError(f"cannot write to {path}: it is a folder; name a file in it")
    check_writable(path.parent)
