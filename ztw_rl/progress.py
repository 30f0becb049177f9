"""The progress line of long work: a bar with rate, score and ETA, or plain lines in a log file."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


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
