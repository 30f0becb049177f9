"""Games that have ended, kept in a file, so that an evaluation that was stopped can go on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ztw_rl.core.files import lock
from ztw_rl.errors import UserError
from ztw_rl.rl.config import EvalRun
from ztw_rl.rl.play import Game
from ztw_rl.settings import parse_stored


@dataclass(frozen=True)
class EndedGame:
    """How game ``number`` of a row went; see ``play.Game``."""

    rule: str
    threshold: float | None
    number: int
    points: float
    exits: tuple[int, ...]
    n_differ: int
    start: int = 0
    film: int = 0


class Journal:
    """A file of JSON lines: what is evaluated, then each game as it ends.

    It is one process's from ``begin`` or ``reopen`` until it is closed, as a context manager does.
    """

    def __init__(
        self, path: Path, file: BinaryIO, head: dict[str, Any], games: Sequence[EndedGame]
    ) -> None:
        self.path = path
        self.head = head
        self._file = file
        self._games = {(game.rule, game.threshold, game.number): game for game in games}

    @classmethod
    def begin(cls, path: Path, head: dict[str, Any]) -> Journal:
        """Make the file.

        Args:
            path: The file.
            head: What is evaluated: a mapping that JSON knows.

        Raises:
            UserError: It is there already, or cannot be written.
        """
        line = json.dumps(head, allow_nan=False).encode() + b"\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        except FileExistsError:
            raise taken(path) from None
        except OSError as error:
            raise UserError(f"cannot write to {path}: {error.strerror}") from None
        journal = cls(path, file, head, [])
        if not lock(file):
            journal.close()
            raise _busy(path)
        try:
            journal._write(line)
        except BaseException:
            # Closing writes once more what a full disk has not taken.
            with suppress(OSError):
                journal.close()
            path.unlink()
            raise
        return journal

    @classmethod
    def reopen(cls, path: Path) -> Journal:
        """Read the file; a last line that a kill has torn is taken off.

        Raises:
            UserError: The file is missing or damaged, or is another process's.
        """
        try:
            file = path.open("r+b")
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{path} is missing: no evaluation was stopped there") from None
        except OSError as error:
            raise UserError(f"cannot write to {path}: {error.strerror}") from None
        try:
            if not lock(file):
                raise _busy(path)
            return cls(path, file, *_read(path, file))
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._games)

    def n_of(self, run: EvalRun) -> int:
        """How many games of a table it has, without those at thresholds that were corrected."""
        corrected = {run.rule: run.thresholds, "confidence": run.beside}
        if run.rule == "confidence" or not run.costs:
            corrected = {run.rule: run.thresholds}
        return sum(
            rule not in corrected or threshold in corrected[rule]
            for rule, threshold, _ in self._games
        )

    def add(self, game: Game) -> None:
        """Write down a game that has ended.

        Raises:
            UserError: The file cannot be written.
        """
        ended = EndedGame(
            rule=game.row.rule,
            threshold=game.row.threshold,
            number=game.number,
            points=game.points,
            exits=tuple(game.exits.tolist()),
            n_differ=game.n_differ,
            start=game.start,
            film=game.film,
        )
        self._write(json.dumps(dataclasses.asdict(ended)).encode() + b"\n")
        self._games[ended.rule, ended.threshold, ended.number] = ended

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}") from None

    def recall(self, game: Game) -> bool:
        """Fill in how a game went, if it has ended before.

        Returns:
            Whether it has.
        """
        ended = self._games.get((game.row.rule, game.row.threshold, game.number))
        if ended is None:
            return False
        game.points, game.n_differ = ended.points, ended.n_differ
        game.start, game.film = ended.start, ended.film
        game.exits = np.array(ended.exits, np.int64)
        game.length = sum(ended.exits)
        return True

    def close(self) -> None:
        """Leave the file to other processes."""
        self._file.close()

    def remove(self) -> None:
        """Delete the file, whose games are in a table by now."""
        self.close()
        self.path.unlink(missing_ok=True)


def taken(path: Path) -> UserError:
    """The complaint about a journal that is there before it is begun."""
    return UserError(
        f"{path} holds the games of an evaluation that was begun before; go on with --resume "
        f"{path.parent}, or delete it"
    )


def _busy(path: Path) -> UserError:
    return UserError(f"{path} is being written: that evaluation is still going on")


def _read(path: Path, file: BinaryIO) -> tuple[dict[str, Any], list[EndedGame]]:
    """Head and games; the file ends with its last whole line then, and is written from there."""
    text = file.read()
    file.truncate(file.seek(text.rfind(b"\n") + 1))
    try:
        head, *lines = [json.loads(line) for line in text.split(b"\n")[:-1] or [b"null"]]
        if not isinstance(head, dict):
            raise UserError("its first line is no mapping")
        games = [parse_stored(EndedGame, line, f"line {i}") for i, line in enumerate(lines, 2)]
        return head, games
    except (ValueError, UserError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and evaluate again") from None
