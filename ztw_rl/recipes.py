"""Recipes: what one environment needs beyond the defaults, from ``envs/<name>.yaml``."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import AtariConfig, canonical, games, rom_id
from ztw_rl.rl.config import DistillConfig, EvaluationConfig, PPOConfig
from ztw_rl.rl.environments import Environment
from ztw_rl.rl.gym.config import GymConfig
from ztw_rl.settings import parse

_PACKAGE = Path(__file__).parent
_IN_WHEEL = _PACKAGE / "_envs"
_SHIPPED = _IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent / "envs"
STAGES = ("ppo", "distill", "evaluation")


@dataclass(frozen=True)
class Recipe:
    """Settings of every stage for one environment, and the returns to judge an agent by."""

    atari: AtariConfig = field(default_factory=AtariConfig)
    """How frames become observations."""
    env: GymConfig | None = None
    """A gymnasium environment that is no Atari game, in its place."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Training of the teacher."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """Training of the internal classifiers and ensembles."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Games per threshold, how actions are chosen."""
    random_return: float | None = None
    """Mean raw return of uniformly random actions, under sticky actions 0.1."""
    reference_return: tuple[float, float] | None = None
    """Lowest and highest raw return that others report."""

    @property
    def environment(self) -> Environment:
        """What is played."""
        return self.env or self.atari


def load(name: str) -> Recipe:
    """The recipe of an environment, or the defaults for one that has none.

    ``envs/`` in the current directory comes first, then the recipes of this package.

    Args:
        name: A recipe or an Atari game, in any spelling; gymnasium's id of any other environment,
            or module:Id.

    Raises:
        UserError: There is no such environment, or its recipe has an error.
    """
    bare = canonical(name)
    for path in _files():
        if canonical(path.stem) == bare and (found := read(path)).env is None:
            return found
    for path in _files():
        own = _id_in(path)
        if own is not None and name in (own, _own_id(own)):
            return read(path)
    if ":" not in name and bare in games():
        return Recipe(atari=AtariConfig(game=rom_id(name)))
    from ztw_rl.rl.gym.batch import is_registered, registered

    if is_registered(name):
        return Recipe(env=GymConfig(id=name))
    for path in _files():
        if canonical(path.stem) == bare:
            return read(path)
    # The newest version of each environment, gymnasium's own before a namespace's; a game's bare
    # name rather than its ids.
    ids = sorted(registered(), key=lambda other: "/" not in other)
    known = {canonical(other): other for other in ids}
    known |= {game: game for game in games()}
    (near,) = difflib.get_close_matches(bare, known, n=1, cutoff=0.0)
    raise UserError(f"no game or environment is '{name}'; did you mean '{known[near]}'?")


def of(environment: Environment) -> Recipe:
    """The recipe of an environment that is already known, which stays as it is."""
    if isinstance(environment, AtariConfig):
        return replace(load(environment.game), atari=environment)
    for path in _files():
        if _id_in(path) == environment.id:
            return replace(read(path), env=environment)
    return Recipe(env=environment)


def _files() -> list[Path]:
    return [path for folder in (Path("envs"), _SHIPPED) for path in sorted(folder.glob("*.yaml"))]


def _own_id(name: str) -> str:
    """Gymnasium's id without the module that registers it."""
    return name.rpartition(":")[2]


def _id_in(path: Path) -> str | None:
    """The environment's id in a recipe; None of a game's, and of any other file."""
    try:
        data = _yaml(path)
    except UserError:
        return None
    env = data.get("env") if isinstance(data, dict) else None
    named = env.get("id") if isinstance(env, dict) else None
    return named if isinstance(named, str) else None


def _yaml(path: Path) -> Any:
    """What a file holds.

    Raises:
        UserError: It cannot be read, or is no YAML.
    """
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def read(path: Path) -> Recipe:
    """The recipe in one file; the file's name is the game unless it names another environment.

    Raises:
        UserError: The file cannot be read, or has an unknown key or a wrong value.
    """
    data = _yaml(path)
    recipe = parse(Recipe, _spread(data), path)
    if recipe.env is not None:
        if "atari" in data:
            raise UserError(f"{path}: atari and env exclude one another; leave one out")
        if not recipe.env.id:
            raise UserError(f"{path}: key 'env.id' is missing")
        return recipe
    named = isinstance(data, dict) and "game" in (data.get("atari") or {})
    try:
        game = rom_id(recipe.atari.game if named else path.stem)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return replace(recipe, atari=replace(recipe.atari, game=game))


def _spread(data: Any) -> Any:
    """``env.n_envs`` as the number of every stage that names none itself."""
    env = data.get("env") if isinstance(data, dict) else None
    if not isinstance(env, dict) or "n_envs" not in env:
        return data
    spread = {**data, "env": {name: value for name, value in env.items() if name != "n_envs"}}
    for stage in STAGES:
        given = data.get(stage) or {}
        if isinstance(given, dict):
            spread[stage] = {"n_envs": env["n_envs"], **given}
    return spread
