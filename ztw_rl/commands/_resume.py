"""What the commands share in going on with a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ztw_rl import runs
from ztw_rl.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SettingsT = TypeVar("SettingsT", bound="DataclassInstance")

PLACES = ("resume", "runs_dir", "device")
"""Flags that say where a run goes on, which is no matter of the experiment."""


def check_resumable(
    run_dir: Path,
    given: Sequence[Path] | None,
    stored: SettingsT,
    wanted: SettingsT,
    *,
    changeable: Collection[str] = (),
    unprefixed: Collection[str] = (),
) -> None:
    """Find out whether a run may be gone on with: another setting makes another experiment.

    Args:
        run_dir: The run.
        given: What ``--resume`` was given.
        stored: The run's settings.
        wanted: The command line's, in the same dataclass.
        changeable: Dotted names of settings, such as ``ppo.n_timesteps``, that may change.
        unprefixed: Groups of settings whose flags don't carry the group's name.

    Raises:
        UserError: A setting differs, ``--resume`` has several values, or the run cannot be
            written.
    """
    if given is not None and len(given) > 1:
        raise UserError(f"--resume takes one run folder, not {len(given)}")
    before, after = flat(stored), flat(wanted)
    for key, value in after.items():
        if key not in (*changeable, *PLACES) and not _same(before[key], value):
            group, _, rest = key.partition(".")
            flag = (rest if group in unprefixed else key).replace("_", "-")
            raise UserError(
                f"--{flag} is {before[key]} in {run_dir} and cannot become {value} midway; "
                "start a new run without --resume"
            )
    runs.check_writable(run_dir)


def _same(before: Any, after: Any) -> bool:
    """Whether two values are equal, or two spellings of one path."""
    if isinstance(before, Path) and isinstance(after, Path):
        return before.resolve() == after.resolve()
    return bool(before == after)


def flat(settings: DataclassInstance) -> dict[str, Any]:
    """Nested settings under dotted keys, such as ``ppo.n_envs``."""
    return _flat(asdict(settings), "")


def _flat(settings: dict[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, dict)
        found.update(_flat(value, f"{prefix}{name}.") if nested else {prefix + name: value})
    return found
