"""Games that have ended, kept in a file, so that an evaluation that was stopped can go on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ztw_rl.atari.seats import Game
from ztw_rl.core.files import save_text
from ztw_rl.errors import UserError
from ztw_rl.schema import parse


@dataclass(frozen=True)
class EndedGame:
    """How game ``number`` of a row went; see ``seats.Game``."""

    rule: str
    threshold: float | None
    number: int
    points: float
    exits: tuple[int, ...]
    n_differ: int


class Journal:
    """A file of JSON lines: what is evaluated, then each game as it ends.

    Args:
        path: The file.
        head: What is evaluated: a mapping that JSON knows.
        games: Games that have ended.
    """

    def __init__(self, path: Path, head: dict[str, Any], games: Sequence[EndedGame] = ()) -> None:
        self.path = path
        self.head = head
        self._games = {(game.rule, game.threshold, game.number): game for game in games}

    @classmethod
    def begin(cls, path: Path, head: dict[str, Any]) -> Journal:
        """Make the file."""
        save_text(path, json.dumps(head, allow_nan=False) + "\n")
        return cls(path, head)

    @classmethod
    def reopen(cls, path: Path) -> Journal:
        """Read the file; a last line that a kill has torn is taken off.

        Raises:
            UserError: The file is missing or damaged.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError:
            raise UserError(f"{path} is missing: no evaluation was stopped there") from None
        except UnicodeDecodeError as error:
            raise _damaged(path, error) from None
        whole = text[: text.rfind("\n") + 1]
        try:
            head, *lines = map(json.loads, whole.splitlines())
        except ValueError as error:
            raise _damaged(path, error) from None
        if not isinstance(head, dict):
            raise _damaged(path, "its first line is no mapping")
        games = [parse(EndedGame, line, f"{path}, line {i}") for i, line in enumerate(lines, 2)]
        if whole != text:
            save_text(path, whole)
        return cls(path, head, games)

    def __len__(self) -> int:
        return len(self._games)

    def add(self, game: Game) -> None:
        """Write down a game that has ended."""
        ended = EndedGame(
            rule=game.row.rule,
            threshold=game.row.threshold,
            number=game.number,
            points=game.points,
            exits=tuple(game.exits.tolist()),
            n_differ=game.n_differ,
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(ended)) + "\n")
        self._games[ended.rule, ended.threshold, ended.number] = ended

    def recall(self, game: Game) -> bool:
        """Fill in how a game went, if it has ended before.

        Returns:
            Whether it has.
        """
        ended = self._games.get((game.row.rule, game.row.threshold, game.number))
        if ended is None:
            return False
        game.points, game.n_differ = ended.points, ended.n_differ
        game.exits = np.array(ended.exits, np.int64)
        game.length = sum(ended.exits)
        return True


def _damaged(path: Path, why: object) -> UserError:
    return UserError(f"{path} is damaged ({why}); delete it and evaluate again")
