"""Names of Atari games, in any spelling."""

from __future__ import annotations

import difflib
import re

from ztw_rl.errors import UserError


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
        UserError: ALE has no such game.
    """
    from ale_py import roms

    by_canonical = {canonical(rom): rom for rom in roms.get_all_rom_ids()}
    bare = canonical(name)
    if bare not in by_canonical:
        near = difflib.get_close_matches(bare, by_canonical, n=1, cutoff=0.0)
        raise UserError(f"no Atari game is called '{name}'; did you mean '{near[0]}'?")
    return by_canonical[bare]
