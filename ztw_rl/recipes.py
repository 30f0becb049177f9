"""Recipes: what one game needs beyond the defaults, from ``envs/<name>.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import AtariConfig, canonical, rom_id
from ztw_rl.rl.config import DistillConfig, EvaluationConfig, PPOConfig
from ztw_rl.settings import parse

_PACKAGE = Path(__file__).parent
_IN_WHEEL = _PACKAGE / "_envs"
_SHIPPED = _IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent / "envs"


@dataclass(frozen=True)
class Recipe:
    """Settings of every stage for one game, and the returns to judge an agent by."""

    atari: AtariConfig = field(default_factory=AtariConfig)
    """How frames become observations."""
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


def load(name: str) -> Recipe:
    """The recipe of a game, or the defaults for a game that has none.

    ``envs/`` in the current directory comes first, then the recipes of this package.

    Args:
        name: A recipe or an Atari game, in any spelling.

    Raises:
        UserError: There is no such game, or its recipe has an error.
    """
    bare = canonical(name)
    for folder in (Path("envs"), _SHIPPED):
        for path in sorted(folder.glob("*.yaml")):
            if canonical(path.stem) == bare:
                return read(path)
    return Recipe(atari=AtariConfig(game=rom_id(name)))


def read(path: Path) -> Recipe:
    """The recipe in one file; the file's name is the game unless ``atari.game`` gives another.

    Raises:
        UserError: The file cannot be read, or has an unknown key or a wrong value.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    recipe = parse(Recipe, data, path)
    named = isinstance(data, dict) and "game" in (data.get("atari") or {})
    try:
        game = rom_id(recipe.atari.game if named else path.stem)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return replace(recipe, atari=replace(recipe.atari, game=game))
