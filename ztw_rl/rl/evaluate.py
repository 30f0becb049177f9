"""Full games on raw points: return against inference cost, row by row.

Every row of the table (a threshold, a forced exit, the backbone, a control) plays the same n
seeds. All games of all rows are jobs in one queue; batches of emulators work them off side by
side, and every job is played out, so short games are not favoured. With two batches or more, the
network decides for one while the others emulate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from ztw_rl.core.bench import threads
from ztw_rl.core.choice import Forced, Threshold
from ztw_rl.core.cost import relative_cost
from ztw_rl.core.device import n_network_threads
from ztw_rl.core.runtime import Backend
from ztw_rl.core.statistics import summarize
from ztw_rl.decision import Rule
from ztw_rl.rl.batch import EnvBatch
from ztw_rl.rl.config import ActionMode
from ztw_rl.rl.play import Game, Slots
from ztw_rl.rl.rows import Adaptive, Full, RandomExits, Row

RelativeCosts = Mapping[Rule, Sequence[float]]
"""By rule, (E,) cost of a decision that leaves at each exit, the backbone's being 1."""


@dataclass(frozen=True)
class RowResult:
    """All games of one row."""

    row: Row
    returns: tuple[float, ...]
    """Raw points of each game, in the order of the seeds."""
    exits: tuple[tuple[int, ...], ...]
    """(n, E) decisions that each exit took, game by game."""
    disagreement: tuple[float, ...] | None = None
    """Share of each game's decisions that differ from the full model's, in the order of the
    seeds; of ``compared`` rows."""
    starts: tuple[int, ...] = ()
    """Emulator frames before each game's first decision, in the order of the seeds."""
    films: tuple[int, ...] = ()
    """Checksums of what each game showed: equal games have equal ones."""
    signals: npt.NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 0), np.float32), compare=False
    )
    """(N, E−1) what every exit was judged by in all decisions, of ``observed`` rows."""

    @property
    def n_decisions(self) -> int:
        """Of all games."""
        return int(np.sum(self.exits))

    @property
    def exit_shares(self) -> tuple[float, ...]:
        """(E,) share of decisions that each exit took, over all games."""
        return tuple((np.sum(self.exits, axis=0) / self.n_decisions).tolist())

    def costs(self, relative: RelativeCosts) -> tuple[float, ...]:
        """(n,) mean cost of a decision in each game; the backbone's is 1.

        Args:
            relative: Cost of a decision that leaves at each exit, over the backbone's.
        """
        if isinstance(self.row.who, Full):
            return (1.0,) * len(self.returns)
        exits = np.array(self.exits)
        return tuple((exits @ np.array(self.of(relative)) / exits.sum(axis=1)).tolist())

    def of(self, relative: RelativeCosts) -> Sequence[float]:
        """(E,) costs of the row's rule."""
        who = self.row.who
        return relative[who.rule if isinstance(who, Threshold) else "confidence"]


NO_JUDGES: Mapping[Rule, Backend] = MappingProxyType({})


def play(
    backend: Backend,
    batches: Sequence[EnvBatch],
    rows: Sequence[Row],
    *,
    n_episodes: int,
    seed: int,
    action_mode: ActionMode,
    device: torch.device,
    judges: Mapping[Rule, Backend] = NO_JUDGES,
    on_game: Callable[[Game], None] = lambda game: None,
    recall: Callable[[Game], bool] = lambda game: False,
) -> list[RowResult]:
    """Play ``n_episodes`` full games for each row.

    Args:
        backend: Runs the agent's model, on ``device``.
        batches: Games that take turns with the network; they are reset first. How many there
            are changes nothing but the rounding of what the network says.
        rows: What to play.
        n_episodes: Games per row.
        seed: Game k of every row has seed ``seed + k``.
        action_mode: How actions follow from probabilities.
        device: Where observations go.
        judges: What runs the same model for rows with another rule than confidence, by that rule.
        on_game: Called with each game that has ended.
        recall: Fills in a game that was played before, and says whether it was.

    Returns:
        One result per row, in their order.
    """
    games = [Game(row, k) for k in range(n_episodes) for row in rows]
    queue = deque(game for game in games if not recall(game))
    with threads(n_network_threads() if device.type == "cpu" else torch.get_num_threads()):
        groups = [
            Slots(backend, judges, emulators, queue, seed, action_mode, device)
            for emulators in batches
        ]
        for slots in groups:
            slots.send()
        while any(slots.busy for slots in groups):
            for slots in groups:
                for game in slots.receive():
                    on_game(game)
                slots.send()
    results = []
    for row in rows:
        own = sorted((g for g in games if g.row is row), key=lambda g: g.number)
        results.append(
            RowResult(
                row=row,
                returns=tuple(g.points for g in own),
                exits=tuple(tuple(g.exits.tolist()) for g in own),
                disagreement=(
                    tuple(g.n_differ / int(g.exits.sum()) for g in own) if row.compared else None
                ),
                starts=tuple(g.start for g in own),
                films=tuple(g.film for g in own),
                signals=np.array([each for g in own for each in g.signals], np.float32),
            )
        )
    return results


def table(
    results: Sequence[RowResult], relative_macs: RelativeCosts, relative_time: RelativeCosts
) -> pd.DataFrame:
    """The evaluation as one line per row.

    Args:
        results: What was played.
        relative_macs: Operations of a decision that leaves at each exit, over the backbone's.
        relative_time: The same for measured time.

    Returns:
        Columns ``rule``, ``threshold``, ``episodes``, the five of ``statistics.Summary`` with
        the prefix ``return_``, ``relative_macs``, ``relative_time``, ``exit_share_<m>``.
    """
    kinds = {"relative_macs": relative_macs, "relative_time": relative_time}
    lines = []
    for result in results:
        alone = isinstance(result.row.who, Full)
        summary = summarize(result.returns)
        lines.append(
            {
                "rule": result.row.rule,
                "threshold": result.row.threshold,
                "episodes": len(result.returns),
                **{f"return_{name}": value for name, value in asdict(summary).items()},
                **{
                    name: 1.0 if alone else relative_cost(result.exit_shares, result.of(costs))
                    for name, costs in kinds.items()
                },
                **{f"exit_share_{m}": share for m, share in enumerate(result.exit_shares)},
            }
        )
    frame: pd.DataFrame = pd.DataFrame(lines)
    return frame


def evaluate(
    backend: Backend,
    batches: Sequence[EnvBatch],
    rules: Sequence[Adaptive],
    *,
    n_episodes: int,
    seed: int,
    action_mode: ActionMode,
    device: torch.device,
    judges: Mapping[Rule, Backend] = NO_JUDGES,
    beside: Sequence[Adaptive] = (),
    compared: bool = False,
    on_game: Callable[[Game], None] = lambda game: None,
    recall: Callable[[Game], bool] = lambda game: False,
) -> list[RowResult]:
    """Play the whole table: the rule at every threshold, its controls, and the backbone.

    The controls are each exit forced alone, and, for each threshold, exits drawn at random as
    often as the rule took them.

    Args:
        backend: Runs the agent's model, on ``device``.
        batches: Games that take turns with the network.
        rules: The exit rule at each of its settings.
        n_episodes: Games per row.
        seed: Game k of every row has seed ``seed + k``.
        action_mode: How actions follow from probabilities.
        device: Where observations go.
        judges: See ``play``.
        beside: Another rule, to be held against the first.
        compared: Whether the rule's rows ask the full model as well, at every decision.
        on_game: Called with each game that has ended.
        recall: Fills in a game that was played before, and says whether it was.

    Returns:
        The rule's rows, the random controls, the rule beside it, the forced exits, the backbone.
    """

    def play_all(rows: Sequence[Row]) -> list[RowResult]:
        return play(
            backend,
            batches,
            rows,
            n_episodes=n_episodes,
            seed=seed,
            action_mode=action_mode,
            device=device,
            judges=judges,
            on_game=on_game,
            recall=recall,
        )

    adaptive = [Row(rule, compared=compared) for rule in rules]
    forced = [Row(Forced(m)) for m in range(backend.n_exits)]
    others = [Row(rule) for rule in beside]
    first = play_all([*adaptive, *others, *forced, Row(Full())])
    n = len(adaptive)
    shares = [played.exit_shares for played in first[:n]]
    controls = play_all([Row(RandomExits(*each)) for each in zip(shares, rules, strict=True)])
    return [*first[:n], *controls, *first[n:]]


def n_games(n_rules: int, n_beside: int, n_exits: int, n_episodes: int) -> int:
    """How many games ``evaluate`` plays."""
    return (2 * n_rules + n_beside + n_exits + 1) * n_episodes
