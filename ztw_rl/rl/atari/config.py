"""How frames become observations, and games' names; imports nothing heavy, for help reads it."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from ztw_rl.errors import UserError
from ztw_rl.settings import Count, Range, Ranged, Share, added

Pixels = Literal["ale", "sb3"]

LONGEST_START = 1000
"""No-op frames before a game that anybody may ask for."""


@dataclass(frozen=True)
class AtariConfig(Ranged):
    """How the emulator's frames become observations. One choice serves all three stages."""

    game: str = "pong"
    """ALE's name of the ROM, such as ``ms_pacman``."""
    pixels: Pixels = "ale"
    """ale: gray, then max-pool (ALE's own batch, gymnasium); sb3: max-pool, then gray, as
    Stable-Baselines3's wrappers. A policy must be run on what it was trained on."""
    frame_skip: Count = 4
    """Emulator frames per action; the last two are max-pooled."""
    screen_size: Annotated[int, Range(36)] = 84
    """Side of the gray observation, in pixels. Below 36 a NatureCNN has nothing left to read."""
    frame_stack: Count = 4
    """Observations stacked along the channel axis, newest last."""
    repeat_action_probability: Share = 0.1
    """Sticky actions: chance that a frame repeats the action of the frame before it."""
    noop_max: Annotated[int, Range(0, LONGEST_START)] = added(30, before=0)
    """Games begin with a number of no-op frames, drawn from their seed. ale: fewer than this many
    emulator frames, FIRE being the first where the game has it; sb3: one to this many, then FIRE.
    0 begins all games alike."""
    max_frames: Count = 108_000
    """Emulator frames after which a game is truncated (30 minutes of play)."""
    terminal_on_life_loss: bool = True
    """A lost life ends the learner's episode; the game goes on. Evaluation ignores it."""
    clip_reward: bool = True
    """The learner sees the sign of the reward. Evaluation always counts raw points."""

    @property
    def name(self) -> str:
        """What runs, recipes and tables are called: ``mspacman`` for ``ms_pacman``."""
        return canonical(self.game)


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


def games() -> list[str]:
    """Names without separators of the games that a single player can play, such as ``mspacman``."""
    from ale_py import roms

    return [canonical(rom) for rom in roms.get_all_rom_ids() if rom not in WITHOUT_SINGLE_PLAYER]


def rom_id(name: str) -> str:
    """ALE's name of a game's ROM, such as ``ms_pacman``.

    Raises:
        UserError: ALE has no such game, or none for a single player.
    """
    from ale_py import roms

    by_canonical = {canonical(rom): rom for rom in roms.get_all_rom_ids()}
    bare = canonical(name)
    if bare not in by_canonical:
        near = difflib.get_close_matches(bare, games(), n=1, cutoff=0.0)
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
