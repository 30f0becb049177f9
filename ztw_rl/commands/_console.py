"""Consoles of the commands."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that shows text as it is: paths may hold what rich would take for markup.

    Args:
        stderr: Whether it writes there rather than to stdout.
        quiet: Whether it shows nothing.
    """
    from rich.console import Console

    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


def next_line(*command: str) -> str:
    """The command that comes next, as a line to copy."""
    return f"next: {shlex.join(command)}"
