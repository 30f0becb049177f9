"""What the commands share in reading their command lines, and in going on with a run."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from ztw_rl import runs
from ztw_rl.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ArgsT = TypeVar("ArgsT")

SIDES, RULES = "│| ", set("─╰╯-+")
"""What tyro draws its boxes with, where the terminal knows Unicode and where not."""
NEAR = ("Perhaps you meant", "Arguments similar to")
"""How tyro's boxes begin a list of flags that exist."""


def read(
    kind: type[ArgsT], arguments: Sequence[str], prog: str, default: ArgsT | None = None
) -> ArgsT:
    """Parse a command line.

    Args:
        kind: The command's dataclass.
        arguments: Command line of the command.
        prog: What the help calls the command.
        default: What flags that are left out are; the dataclass's own defaults without.

    Raises:
        UserError: The command line has an error.
        SystemExit: It asked for help, and got it.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            if default is None:
                return tyro.cli(kind, args=arguments, prog=prog)
            return tyro.cli(kind, args=arguments, prog=prog, default=default)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(box.getvalue(), prog)) from None


def _one_line(box: str, prog: str) -> str:
    """The message of tyro's box, and the flags that it thinks were meant."""
    from rich.text import Text

    # Below the title, rules divide a box into sections: the message, then suggestions and hints.
    sections: list[list[str]] = [[]]
    for line in Text.from_ansi(box).plain.splitlines()[1:]:
        text = line.strip(SIDES)
        if set(text) <= RULES:
            sections.append([])
        else:
            sections[-1].append(text)
    message, *hints = filter(None, sections)
    near = sorted(hint[1].split()[0].rstrip(",") for hint in hints if hint[0].startswith(NEAR))
    found = " ".join(message).rstrip(".")
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{found[:1].lower()}{found[1:]}{meant} ({prog} --help lists the options)"


def parse(
    kind: type[ArgsT], arguments: Sequence[str], prog: str, default: Callable[[], ArgsT]
) -> ArgsT:
    """Parse a command line whose defaults must be looked up, and may not be found.

    Args:
        kind: The command's dataclass.
        arguments: Command line of the command.
        prog: What the help calls the command.
        default: Looks up the defaults.

    Raises:
        UserError: The command line has an error, or ``default`` raised it.
    """
    with help_first(kind, arguments, prog):
        found = default()
    return read(kind, arguments, prog, found)


@contextlib.contextmanager
def help_first(
    kind: type[ArgsT], arguments: Sequence[str], prog: str, default: ArgsT | None = None
) -> Iterator[None]:
    """Answer help and unknown flags before a UserError of the block, which looks up defaults.

    Args:
        kind: The command's dataclass.
        arguments: Command line of the command.
        prog: What the help calls the command.
        default: As for ``read``, where the dataclass itself has no defaults.
    """
    try:
        yield
    except UserError:
        read(kind, arguments, prog, default)
        raise


def peek(arguments: Sequence[str], *names: str) -> dict[str, str | None]:
    """Values of a few flags before the command line is parsed in full.

    The defaults of all other flags (a recipe, a stored config) depend on them.

    Args:
        arguments: Command line of the command.
        *names: Flags such as ``runs-dir``.

    Returns:
        Flag to value: None if absent, empty if given without a value. The last one counts.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        spellings = {f"--{name}", f"--{name.replace('-', '_')}"}
        parser.add_argument(*sorted(spellings), dest=name, nargs="?", const="")
    found, _ = parser.parse_known_args(list(arguments))
    return vars(found)


MOST = 1000
"""Thresholds in one range; a step that gives more is a slip of the pen."""


def parse_thresholds(text: str, noun: str = "thresholds", *, negative: bool = False) -> list[float]:
    """Numbers from ``start:stop[:step]`` (stop included) or ``a,b,c``, each once.

    Args:
        text: Such as ``0.1:0.9``, which has a step of 0.1.
        noun: What they are called.
        negative: Whether they may lie below 0.

    Raises:
        UserError: The text is no such list, or holds nothing.
    """

    def number(part: str) -> float:
        try:
            value = float(part)
        except ValueError:
            raise UserError(
                f"{noun} '{text}': '{part}' is no number; write 0.1:0.9 or 0.5,0.7"
            ) from None
        if not math.isfinite(value) or (value < 0 and not negative):
            allowed = "a finite number" if negative else "a number of 0 or more"
            raise UserError(f"{noun} '{text}': {part} is not {allowed}")
        return value

    if ":" not in text:
        return list(dict.fromkeys(number(part) for part in text.split(",")))
    parts = [number(part) for part in text.split(":")]
    if len(parts) > 3:
        raise UserError(f"{noun} '{text}': write start:stop or start:stop:step")
    start, stop, step = (*parts, 0.1)[:3]
    if step <= 0:
        raise UserError(f"{noun} '{text}': the step must be above 0")
    if stop < start:
        raise UserError(f"{noun} '{text}' go down; write {parts[1]:g}:{parts[0]:g}")
    n_steps = (stop - start) / step + 1e-9
    if n_steps >= MOST:
        raise UserError(f"{noun} '{text}' are {n_steps + 1:.7g}; write at most {MOST}")
    # Steps add up to 0.30000000000000004 and the like.
    return list(dict.fromkeys(round(start + i * step, 10) for i in range(int(n_steps) + 1)))


SettingsT = TypeVar("SettingsT", bound="DataclassInstance")

RENAMED = {"gym": "env"}
"""Groups of settings whose flags have another name."""
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
        # A mapping may have a new key.
        was = before.get(key)
        if key not in (*changeable, *PLACES) and not _same(was, value):
            group, _, rest = key.partition(".")
            known = f"{RENAMED.get(group, group)}.{rest}" if rest else key
            flag = (rest if group in unprefixed else known).replace("_", "-")
            raise UserError(
                f"--{flag} is {was} in {run_dir} and cannot become {value} midway; "
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
