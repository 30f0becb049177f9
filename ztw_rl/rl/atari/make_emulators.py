"""Batches of games for the pixels that a configuration asks for."""

from __future__ import annotations

from ztw_rl.rl.atari.background import in_background
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.emulators import Emulators
from ztw_rl.rl.atari.transition import AtariBatch

NICENESS = 4
"""Of emulators that take turns: enough for the network's thread to keep a core to itself."""


def make_emulators(config: AtariConfig, n_envs: int, n_threads: int = 0) -> AtariBatch:
    """A batch of games that renders ``config.pixels``.

    Args:
        config: Preprocessing.
        n_envs: Number of games N.
        n_threads: Emulation threads; 0 takes one per core. ``sb3`` pixels always take one.

    Raises:
        UserError: ALE has no such game.
    """
    if config.pixels == "ale":
        return Emulators(config, n_envs, n_threads)
    # Only the wrapper chain needs OpenCV.
    from ztw_rl.rl.atari.wrapped_emulators import WrappedEmulators

    return WrappedEmulators(config, n_envs)


def make_batches(config: AtariConfig, n_envs: int) -> list[AtariBatch]:
    """Games in batches that take turns: while one emulates, a network decides for another.

    Two halves, or all games in one where they cannot emulate in the background.

    Args:
        config: Preprocessing.
        n_envs: Number of games, over all batches.

    Raises:
        UserError: ALE has no such game.
    """
    sizes = [n_envs // 2, n_envs - n_envs // 2] if config.pixels == "ale" else [n_envs]
    return in_background(lambda: [make_emulators(config, size) for size in sizes if size], NICENESS)
