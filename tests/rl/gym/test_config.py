import pytest

from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.environments import InEnvironment, action_labels, begins_with, noop_max_of
from ztw_rl.rl.gym.config import GymConfig


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("CartPole-v1", "cartpole"),
        ("tests.corridor:Corridor-v0", "corridor"),
        ("phys2d/CartPole-v0", "cartpole"),
        ("MiniGrid-DoorKey-5x5-v0", "minigriddoorkey5x5"),
    ],
)
def test_names_are_as_recipes_are_called(given, name):
    assert GymConfig(given).name == name


def test_settings_belong_to_one_environment():
    assert InEnvironment(env=GymConfig("A-v0")).environment == GymConfig("A-v0")
    for given in ({}, {"atari": AtariConfig(), "env": GymConfig("A-v0")}):
        with pytest.raises(UserError, match="either atari or env must be given, and not both"):
            InEnvironment(**given)


def test_only_games_begin_with_no_ops():
    assert begins_with(AtariConfig(), 3).noop_max == 3
    assert noop_max_of(AtariConfig(noop_max=4)) == 4
    assert begins_with(GymConfig("A-v0"), 3) == GymConfig("A-v0")
    assert noop_max_of(GymConfig("A-v0")) is None


def test_actions_without_names_are_numbers():
    assert action_labels(GymConfig("A-v0"), 3) == ["0", "1", "2"]
    assert action_labels(AtariConfig(game="pong"), 6)[:2] == ["NOOP", "FIRE"]
