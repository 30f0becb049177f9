"""Agents' folders as a collection: each complete, its tables its own, by method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ztw_rl.core.files import subfolders
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import CONFIG_FILE, Agent, load_agent
from ztw_rl.rl.environments import action_labels
from ztw_rl.rl.tables import (
    StoredRow,
    StoredTable,
    check_game,
    foreign,
    judged_as,
    load_table,
)

ORDER = ("ztw", "cascade", "ensemble", "sdn", "pbee", "student")
"""Of tables and legends: the paper's own method first."""


@dataclass(frozen=True)
class Method:
    """A method as it is compared with others; ``str`` gives its label."""

    name: str
    """Such as ``ztw`` or ``pbee``; ``backbone`` is the full policy."""
    patient: bool = False
    """Whether its exits leave by patience where the name does not say so."""
    exits: tuple[str, ...] = ()
    """Places of its ICs, where they are others than those of the game's own agent."""
    variant: str = ""
    """Name of the variant that played it, where places do not tell it."""
    judged: str = ""
    """What exits are judged by, unless that is their confidence."""
    sampled: bool = False
    """Whether actions are sampled rather than greedy."""
    control: str = ""
    """How exits are chosen instead of by the rule."""
    settings: tuple[str, ...] = ()
    """The only ones that it may choose from."""

    @property
    def qualifiers(self) -> tuple[str, ...]:
        """What sets it apart, in words."""
        said = (
            "patience" if self.patient else "",
            f"exits {' '.join(self.exits)}" if self.exits else "",
            self.variant,
            self.judged,
            "sampled" if self.sampled else "",
            self.control,
            f"at {' '.join(self.settings)}" if self.settings else "",
        )
        return tuple(filter(None, said))

    def __str__(self) -> str:
        return ", ".join((self.name, *self.qualifiers))

    @property
    def rank(self) -> tuple[int, str]:
        """Sorts methods: plain ones in ``ORDER``, then the others."""
        place = ORDER.index(self.name) if self.name in ORDER else len(ORDER)
        return bool(self.qualifiers) * (len(ORDER) + 1) + place, str(self)


TABLE_FILE = "curve.json"
PAPER = "paper"
"""Folder, in a game's, of the agent in the paper's form, which other methods are compared with."""
OTHER_TABLES = "curve-*.json"
"""Further tables in an agent's folder: other methods that imitate the same policy."""


@dataclass(frozen=True)
class MethodResult:
    """All settings of one method on one game, and the full policy on the same seeds."""

    method: Method
    settings: dict[str, StoredRow]
    """By threshold, or by the exit that a student matches."""
    backbone: StoredRow
    table: StoredTable
    """The first that it comes from."""
    rows: tuple[StoredRow, ...]
    """Of all tables that it comes from, controls included."""

    @property
    def path(self) -> Path:
        """A table that it comes from."""
        return self.table.path

    @property
    def n_games(self) -> int:
        """Games of each setting."""
        return len(self.backbone.returns)

    @property
    def backend(self) -> str:
        """What its times were measured on."""
        return self.table.backend


@dataclass(frozen=True)
class GameResults:
    """What one agent's folder holds."""

    game: str
    own: MethodResult
    """That of the agent that others are compared with: the paper's form, where there is one."""
    methods: tuple[MethodResult, ...]
    """All, ``own`` among them."""
    random_return: float | None
    """What random play scores, if it is known."""

    @property
    def random(self) -> float:
        """What random play scores.

        Raises:
            UserError: It is not known.
        """
        if self.random_return is None:
            raise UserError(
                f"{self.own.path}: the recipe of {self.game} has no random_return to normalise by; "
                f"measure it with: ztw-rl score --random --env {self.game}, and add it to "
                f"envs/{self.game}.yaml"
            )
        return self.random_return


def read_results(
    folder: Path, random_return: Callable[[str], float | None]
) -> tuple[GameResults, ...]:
    """All agents of a folder such as ``agents/``, by game.

    Args:
        folder: Of the agents' folders.
        random_return: From a game to what random play scores, if it is known.

    Raises:
        UserError: There are none, or one is incomplete or holds what belongs to another.
    """
    if (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder} is an agent; name the folder that holds it: ztw-rl report {folder.parent}"
        )
    found = subfolders(folder)
    if not found:
        raise UserError(
            f"{folder} holds no agents; say where they are, such as: ztw-rl report agents"
        )
    return tuple(read_game(path, random_return) for path in found)


def read_game(folder: Path, random_return: Callable[[str], float | None]) -> GameResults:
    """One agent's folder, ``agents/<game>``.

    Agents in folders of it are variants: of the same policy, each with tables of its own. One of
    them, ``paper``, may be the same agent.

    Args:
        folder: The game's.
        random_return: From a game to what random play scores, if it is known.

    Raises:
        UserError: A file is missing, damaged or belongs to another agent.
    """
    inside = [path for path in subfolders(folder) if (path / CONFIG_FILE).is_file()]
    reference = folder / PAPER if folder / PAPER in inside else folder
    agent, own = _agent_and_table(reference, folder.name)
    others = _other_tables(reference)
    variants = [path for path in (folder, *inside) if path != reference]
    for variant in variants:
        _, table = _agent_and_table(variant, folder.name)
        others += [] if table.identity == own.identity else [table]
        others += _other_tables(variant)
    for other in others:
        check_game(other, folder.name)
        if other.identity.policy != own.identity.policy:
            raise foreign(other, folder)
        if other.seed != own.seed:
            raise UserError(
                f"{other.path} was played from seed {other.seed}, and {own.path} from seed "
                f"{own.seed}, so their games cannot be compared; evaluate again with --seed "
                f"{own.seed}"
            )
        if other.noop_max != own.noop_max:
            raise UserError(
                f"{other.path} was played with noop_max {other.noop_max}, and {own.path} with "
                f"{own.noop_max}, so their games cannot be compared; evaluate again with "
                f"--noop-max {own.noop_max}"
            )
    methods: dict[Method, MethodResult] = {}
    for table in (own, *others):
        variant_name = (
            _variant_name(table.path.parent, folder) if table.path.parent in variants else None
        )
        method = method_of(table, agent.config.exits, variant_name)
        methods[method] = _joined(methods.get(method), table, method, own)
    in_order = sorted(methods.values(), key=lambda m: m.method.rank)
    itself = methods[method_of(own, agent.config.exits)]
    known = own.random_return
    random = random_return(folder.name) if known is None else known
    return GameResults(folder.name, itself, tuple(in_order), random)


def _variant_name(variant: Path, folder: Path) -> str:
    """What tells a variant from the agent that it is compared with."""
    return "recommended" if variant == folder else variant.name


def _agent_and_table(folder: Path, game: str) -> tuple[Agent, StoredTable]:
    """An agent of a game, and the table that was made with it."""
    agent = load_agent(folder)
    check_agent(folder, agent, game)
    table = load_table(folder / TABLE_FILE)
    check_game(table, game)
    if table.identity != judged_as(table, agent).identity():
        raise foreign(table, folder)
    return agent, table


def _other_tables(folder: Path) -> list[StoredTable]:
    """The tables of an agent's folder beside its own."""
    return [load_table(path) for path in sorted(folder.glob(OTHER_TABLES))]


def check_agent(folder: Path, agent: Agent, wanted: str) -> None:
    """An agent plays the game that a folder is called after, and has that game's actions.

    Raises:
        UserError: It does not.
    """
    config = folder / CONFIG_FILE
    game = agent.config.environment.name
    if game != wanted:
        raise UserError(f"{config} plays {game}, but lies in the folder of {wanted}")
    n_actions = len(action_labels(agent.config.environment, agent.config.n_actions))
    if agent.config.n_actions != n_actions:
        raise UserError(
            f"{config}: the agent has {agent.config.n_actions} actions, but {game} has "
            f"{n_actions}; these are another game's weights"
        )


def games_and_backends(counts: Sequence[int], results: Sequence[GameResults]) -> str:
    """How many games there are and what measured the times, in words.

    Args:
        counts: Games per setting, of each method.
        results: Whose backends.
    """
    low, high = min(counts), max(counts)
    shown = str(low) if low == high else f"{low} to {high}"
    backends = sorted({method.backend for game in results for method in game.methods})
    return f"{shown} full games per setting; times: {', '.join(backends)}, one thread"


def method_of(table: StoredTable, exits: tuple[str, ...], variant: str | None = None) -> Method:
    """A table's method: PBEE is SDN's agent under the patience rule.

    Args:
        table: The table.
        exits: Where the game's own agent has its ICs.
        variant: Name of the variant that played it; it counts where the places are the same.
    """
    patient = table.rule == "patience"
    is_pbee = patient and table.method == "sdn"
    elsewhere = table.exits if table.exits and table.exits != exits else ()
    return Method(
        "pbee" if is_pbee else table.method,
        patient=patient and not is_pbee,
        exits=elsewhere,
        variant="" if elsewhere or variant is None else variant,
        judged=table.rule if table.rule in ("margin", "gate") else "",
        sampled=table.action_mode == "sample",
    )


def setting_name(row: StoredRow) -> str:
    """A row's threshold as it is written, 0.35 or 1."""
    assert row.threshold is not None
    name: str = np.format_float_positional(row.threshold, trim="-")
    return name


def _joined(
    before: MethodResult | None, table: StoredTable, method: Method, own: StoredTable
) -> MethodResult:
    """``before`` and what ``table`` adds to it.

    Raises:
        UserError: The two do not belong together.
    """
    full = table.backbone
    if full is None:
        full = own.backbone
        assert full is not None
        if (table.action_mode, table.n_games) != (own.action_mode, own.n_games):
            raise UserError(
                f"{table.path} needs the games of {own.path}: {own.n_games} {own.action_mode} ones "
                f"from seed {own.seed}"
            )
    rows = {
        str(table.student_of) if row.threshold is None else setting_name(row): row
        for row in table.adaptive
    }
    if before is None:
        return MethodResult(method, rows, full, table, table.rows)
    conflict = _conflict(before, table, full, set(rows))
    if conflict:
        raise UserError(
            f"{table.path} and {before.path} are both of '{method}', {conflict}; keep one of them, "
            "or evaluate again"
        )
    settings = dict(
        sorted({**before.settings, **rows}.items(), key=lambda setting: setting[1].threshold or 0)
    )
    return MethodResult(method, settings, full, before.table, before.rows + table.rows)


def _conflict(
    before: MethodResult, table: StoredTable, full: StoredRow, settings: set[str]
) -> str | None:
    """Why a table can add nothing to what is known of its method, in words."""
    first = before.table
    if before.backbone.returns != full.returns:
        return "but of other games"
    if table.method != "student" and table.identity.agent != first.identity.agent:
        return "but of other weights"
    if table.backend != first.backend:
        return "but timed on other backends"
    twice = settings & before.settings.keys()
    return f"and both hold {' '.join(sorted(twice))}" if twice else None
