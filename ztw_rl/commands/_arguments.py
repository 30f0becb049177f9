"""What the commands share in reading their command lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from ztw_rl.errors import UserError

ArgsT = TypeVar("ArgsT")


def parse(
    kind: type[ArgsT], arguments: Sequence[str], prog: str, default: Callable[[], ArgsT]
) -> ArgsT:
    """Parse a command line whose defaults must be looked up, and may not be found.

    Help and unknown flags are answered in either case.

    Args:
        kind: The command's dataclass.
        arguments: Command line of the command.
        prog: What the help calls the command.
        default: Looks up the defaults.

    Raises:
        UserError: ``default`` raised it.
    """
    try:
        found = default()
    except UserError:
        tyro.cli(kind, args=arguments, prog=prog)
        raise
    return tyro.cli(kind, args=arguments, prog=prog, default=found)


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
