from __future__ import annotations

from pathlib import Path

import pytest

from ztw_rl import recipes
from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.config import PPOConfig

SHIPPED = Path(__file__).parents[1] / "envs"
RANDOM_RETURNS = {
    "pong": -20.2,
    "mspacman": 232,
    "breakout": 1.2,
    "qbert": 177,
    "phoenix": 592,
    "riverraid": 1458,
    "seaquest": 67,
    "airraid": 603,
}


@pytest.fixture
def envs(tmp_path, monkeypatch) -> Path:
    """The ``envs`` folder of an otherwise empty current directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "envs"
    folder.mkdir()
    return folder


def test_there_is_a_recipe_for_each_of_the_eight_games():
    assert {path.stem for path in SHIPPED.glob("*.yaml")} == set(RANDOM_RETURNS)


@pytest.mark.parametrize("name", RANDOM_RETURNS)
def test_shipped_recipes(name):
    recipe = recipes.read(SHIPPED / f"{name}.yaml")
    assert recipe.random_return == RANDOM_RETURNS[name]
    assert recipe.reference_return is not None
    assert recipe.random_return < recipe.reference_return[0] <= recipe.reference_return[1]
    assert recipe.atari.game.replace("_", "") == name


@pytest.mark.parametrize("name", ["MsPacman", "ms_pacman", "mspacman", "ALE/MsPacman-v5"])
def test_any_spelling(name):
    assert recipes.load(name).atari.game == "ms_pacman"
    assert recipes.load(name).random_return == 232


def test_a_game_without_a_recipe_has_the_defaults():
    assert recipes.load("Assault") == recipes.Recipe(atari=AtariConfig(game="assault"))


def test_recipes_of_the_current_directory_come_first(envs):
    (envs / "pong.yaml").write_text("ppo: {learning_rate: 1e-3, n_envs: 16}\natari: {}")
    assert recipes.load("Pong").ppo == PPOConfig(learning_rate=1e-3, n_envs=16)
    assert recipes.load("Breakout").random_return == 1.2


def test_a_recipe_may_name_its_game(envs):
    (envs / "pong-fast.yaml").write_text("atari: {game: Pong}")
    assert recipes.load("pong-fast").atari.game == "pong"


def test_an_empty_recipe_has_the_defaults(envs):
    (envs / "pong.yaml").write_text("")
    assert recipes.load("pong") == recipes.Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo: {n_envs: eight}", "ppo.n_envs is 'eight' (text), expected a whole number"),
        ("ppo: {n_env: 8}", "unknown key 'ppo.n_env'; did you mean 'ppo.n_envs'?"),
        ("pop: {n_envs: 8}", "unknown key 'pop'; did you mean 'ppo'?"),
        ("ppo: {schedule: cosine}", "expected constant or linear"),
        ("ppo: {n_envs: 0}", "ppo.n_envs must be at least 1, not 0"),
        ("ppo: {batch_size: 2000}", "ppo.batch_size must be at most one rollout"),
        ("atari: {repeat_action_probability: 2}", "must be between 0 and 1, not 2.0"),
        ("atari: {game: pnog}", "no Atari game is called 'pnog'; did you mean 'pong'?"),
        ("- a\n- b", "expected a mapping"),
        ("ppo: {n_envs: 8", "is not YAML"),
    ],
)
def test_errors_name_the_file_and_the_key(envs, text, message):
    (envs / "pong.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        recipes.load("pong")
    assert str(raised.value).startswith(str(Path("envs/pong.yaml")))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_unreadable_bytes(envs):
    (envs / "pong.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not YAML"):
        recipes.load("pong")


def test_an_unknown_game_gets_the_nearest():
    with pytest.raises(UserError, match="'Braekout'; did you mean 'breakout'"):
        recipes.load("Braekout")
