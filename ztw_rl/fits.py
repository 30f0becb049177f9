"""The folder in which exits on a network of the user's own learn: settings, checkpoints, logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ztw_rl import runs
from ztw_rl.core.checkpoint import checkpoints
from ztw_rl.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@contextmanager
def folder(path: Path | None, settings: DataclassInstance, resume: bool) -> Iterator[None]:
    """Have a fit's folder to oneself, its settings inside; without a path there is none.

    Args:
        path: The folder; it is made if it is not there.
        settings: Of the fit.
        resume: Whether the fit that is in it goes on.

    Raises:
        UserError: It cannot be written, is another process's, holds a fit already, or holds one of
            other settings, or none, where one should go on.
    """
    if path is None:
        if resume:
            raise UserError("resume needs run_dir, the folder of the fit that goes on")
        yield
        return
    if resume:
        _check_same(path, settings)
    runs.check_writable(path)
    if not resume and checkpoints(path):
        raise UserError(
            f"{path} holds a fit already; go on with resume=True, or name another run_dir"
        )
    runs.save_config(path, settings)
    with runs.claimed(path):
        yield


def _check_same(path: Path, settings: DataclassInstance) -> None:
    """Find out whether the fit in a folder has these settings."""
    stored = runs.load_config(type(settings), path)
    for name, value in vars(settings).items():
        before = getattr(stored, name)
        if before != value:
            raise UserError(
                f"{name} is {before} in {path} and cannot become {value} midway; name another "
                "run_dir"
            )
