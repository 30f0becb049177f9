"""What the commands share in reading their command lines."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import tyro

from ztw_rl.errors import UserError

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
