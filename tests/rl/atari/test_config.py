from __future__ import annotations

import pytest

from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import action_names, canonical, rom_id


@pytest.mark.parametrize(
    "name",
    ["MsPacman", "ms_pacman", "ms-pacman", "MSPACMAN", "ALE/MsPacman-v5", "MsPacmanNoFrameskip-v4"],
)
def test_spellings(name):
    assert canonical(name) == "mspacman"
    assert rom_id(name) == "ms_pacman"


@pytest.mark.parametrize(("name", "near"), [("Pnog", "pong"), ("breakot", "breakout")])
def test_an_unknown_game_gets_the_nearest(name, near):
    with pytest.raises(UserError, match=f"'{name}'; did you mean '{near}'"):
        rom_id(name)


def test_a_name_unlike_any_game():
    with pytest.raises(UserError, match="did you mean"):
        rom_id("!")


@pytest.mark.parametrize("name", ["Combat", "MazeCraze"])
def test_a_game_for_two_is_refused(name):
    with pytest.raises(UserError, match=f"'{name}' has no game for a single player"):
        rom_id(name)


@pytest.mark.parametrize("name", ["Pong", "ALE/Pong-v5", "pong"])
def test_what_actions_do(name):
    assert action_names(name) == ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]
