"""What commands show while they work, and how the user stops them."""

from __future__ import annotations

import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def plain_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that shows text as it is: paths may hold what rich would take for markup.

    Args:
        stderr: Whether it writes there rather than to stdout.
        quiet: Whether it shows nothing.
    """
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


def next_line(*command: str) -> str:
    """The command that comes next, as a line to copy."""
    return f"next: {shlex.join(command)}"


SMALL_RETURN = 2.0
"""Up to which a return is shown to three decimals."""


def decimals(*returns: float) -> int:
    """To how many decimals returns are shown: one, or three where all are small, as MiniGrid's.

    Args:
        returns: All that are shown side by side.
    """
    return 3 if 0 < max(map(abs, returns)) <= SMALL_RETURN else 1


class TrainingProgress:
    """Shows how far a training is, how fast it goes and how well it does.

    On a terminal this is a bar that moves; elsewhere, ``milestone`` prints a line.

    Args:
        label: What is trained.
        total: Steps in all.
        completed: Steps done before this session.
        console: Where it is shown; nowhere without one.
    """

    def __init__(
        self, label: str, total: int, completed: int, console: Console | None = None
    ) -> None:
        self._console = console or Console(quiet=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} steps/s  {task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self._console,
        )
        self._task = self._bar.add_task(
            label, total=total, completed=completed, rate=0.0, figures=""
        )
        self._first = completed
        self._began = time.monotonic()

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, completed: int, figures: str, label: str | None = None) -> None:
        """Show where the training stands.

        Args:
            completed: Steps done, over all sessions.
            figures: Such as ``return 17.3``.
            label: What is trained from now on.
        """
        rate = (completed - self._first) / max(time.monotonic() - self._began, 1e-9)
        self._bar.update(
            self._task, completed=completed, rate=rate, figures=figures, description=label
        )

    def note(self, text: str) -> None:
        """Leave a line that stays, on a terminal above the bar."""
        self._console.print(text, soft_wrap=True)

    def milestone(self) -> None:
        """Leave a line in a log file; a terminal has the bar."""
        if not self._console.is_terminal:
            task = self._bar.tasks[0]
            self._console.print(
                f"{task.description}: step {task.completed:,.0f}  {task.fields['figures']}  "
                f"{task.fields['rate']:.0f} steps/s"
            )


class StopRequest:
    """Whether the user asked to stop; read it where stopping is safe."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second SIGINT interrupts at once.

    Outside the main thread, where Python delivers no signals, the request never comes.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(signum: int, frame: FrameType | None) -> None:
        if stop.requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    previous = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


@contextmanager
def counted_games(
    total: int, console: Console, completed: int = 0
) -> Iterator[Callable[[object], None]]:
    """A bar while games are played; in a log file, where no bar moves, a line at every tenth.

    Args:
        total: Games that will end.
        console: Where to show it.
        completed: Games that have ended before.

    Yields:
        To be called with each game that has ended.
    """
    progress = Progress(
        TextColumn("games"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = progress.add_task("", total=total, completed=completed)
    done = completed

    def count(_: object) -> None:
        nonlocal done
        done += 1
        progress.advance(task)
        if not console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
            console.print(f"games: {done} of {total}")

    with progress:
        yield count
