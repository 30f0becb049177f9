"""Names of Atari games, in any spelling, and of their actions."""

from __future__ import annotations

import difflib
import re

from ztw_rl.errors import UserError

WITHOUT_SINGLE_PLAYER = frozenset({"combat", "joust", "maze_craze", "warlords"})
"""ROMs that ALE lists, but ends the whole process on when it is asked to play them alone."""


def canonical(name: str) -> str:
    """The bare name of a game or agent: lower case, letters and digits only.

    ``MsPacman``, ``ms_pacman``, ``ALE/MsPacman-v5`` and ``MsPacmanNoFrameskip-v4`` all give
    ``mspacman``.
    """
    name = name.rsplit("/", 1)[-1]
    name = re.sub(r"-v\d+$", "", name)
    name = re.sub(r"(NoFrameskip|Deterministic)$", "", name)
    return re.sub(r"[^a-z0-9]", "", name.lower())


def rom_id(name: str) -> str:
    """ALE's name of a game's ROM, such as ``ms_pacman``.

    Raises:
        UserError: ALE has no such game, or none for a single player.
    """
    from ale_py import roms

    by_canonical = {canonical(rom): rom for rom in roms.get_all_rom_ids()}
    playable = [name for name, rom in by_canonical.items() if rom not in WITHOUT_SINGLE_PLAYER]
    bare = canonical(name)
    if bare not in by_canonical:
        near = difflib.get_close_matches(bare, playable, n=1, cutoff=0.0)
        raise UserError(f"no Atari game is called '{name}'; did you mean '{near[0]}'?")
    rom = by_canonical[bare]
    if rom in WITHOUT_SINGLE_PLAYER:
        raise UserError(f"'{name}' has no game for a single player; choose another")
    return rom


def action_names(rom: str) -> list[str]:
    """What each action of a game does, such as ``NOOP``.

    Args:
        rom: The game, in any spelling.

    Raises:
        UserError: ALE has no such game.
    """
    from ale_py import ALEInterface, LoggerMode, roms

    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    path = roms.get_rom_path(rom_id(rom))
    assert path is not None
    ale.loadROM(path)
    return [action.name for action in ale.getMinimalActionSet()]
