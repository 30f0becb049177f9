from __future__ import annotations

from pathlib import Path

import pytest

from ztw_rl import recipes
from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.config import PPOConfig
from ztw_rl.rl.gym.config import GymConfig

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
    recipes_of = {path.stem: recipes.read(path) for path in SHIPPED.glob("*.yaml")}
    assert {name for name, recipe in recipes_of.items() if not recipe.env} == set(RANDOM_RETURNS)


@pytest.mark.parametrize(
    ("name", "env_id", "n_envs"),
    [
        ("CartPole-v1", "CartPole-v1", 8),
        ("cartpole", "CartPole-v1", 8),
        ("MiniGrid-DoorKey-5x5-v0", "minigrid:MiniGrid-DoorKey-5x5-v0", 16),
        ("LunarLander-v3", "LunarLander-v3", 16),
    ],
)
def test_shipped_recipes_of_other_environments(name, env_id, n_envs):
    recipe = recipes.load(name)
    assert recipe.env is not None
    assert recipe.environment.id == env_id
    assert (recipe.ppo.n_envs, recipe.distill.n_envs, recipe.evaluation.n_envs) == (n_envs,) * 3


def test_an_environment_without_a_recipe_has_the_defaults():
    assert recipes.load("Acrobot-v1") == recipes.Recipe(env=GymConfig("Acrobot-v1"))
    # Another version is another environment.
    assert recipes.load("CartPole-v0") == recipes.Recipe(env=GymConfig("CartPole-v0"))
    assert recipes.load("some.module:Id-v0").env == GymConfig("some.module:Id-v0")


def test_a_stages_own_number_of_environments_comes_first(envs):
    (envs / "pole.yaml").write_text("env: {id: CartPole-v1, n_envs: 3}\nppo: {n_envs: 4}")
    recipe = recipes.load("pole")
    assert (recipe.ppo.n_envs, recipe.distill.n_envs) == (4, 3)


@pytest.mark.parametrize("text", ["name: base\ndependencies: [numpy]", "a: [", "- b", ""])
def test_other_files_beside_the_recipes_are_left_alone(envs, text):
    """Other programs have folders of this name as well."""
    (envs / "environment.yaml").write_text(text)
    assert recipes.load("Assault").atari.game == "assault"
    assert recipes.load("Acrobot-v1") == recipes.Recipe(env=GymConfig("Acrobot-v1"))
    assert recipes.of(GymConfig("CartPole-v1")).ppo.n_envs == 8


def test_a_known_environment_keeps_how_it_was_made():
    made = GymConfig("CartPole-v1", frame_stack=4)
    assert recipes.of(made).env == made
    assert recipes.of(made).ppo == recipes.load("CartPole-v1").ppo
    assert recipes.of(AtariConfig(game="pong", frame_skip=2)).random_return == -20.2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env: {frame_stack: 2}", "key 'env.id' is missing"),
        ("env: {id: A-v0}\natari: {}", "atari and env exclude one another; leave one out"),
        ("env: {id: A-v0, frame_stack: 0}", "env.frame_stack must be at least 1, not 0"),
        ("env: {id: A-v0, kwargs: {size: [1]}}", "env.kwargs.size is [1] (a collection)"),
        ("env: {id: A-v0, vectorization: on}", "env.vectorization is True (true or false)"),
    ],
)
def test_errors_in_recipes_of_environments(envs, text, message):
    (envs / "pole.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        recipes.load("pole")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("typed", "meant"), [("CartPol-v1", "CartPole-v1"), ("LunarLandr-v3", "LunarLander-v3")]
)
def test_an_unknown_id_gets_the_nearest(typed, meant):
    with pytest.raises(UserError, match=f"'{typed}'; did you mean '{meant}'"):
        recipes.load(typed)


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
