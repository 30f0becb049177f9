"""Full games on raw points: return against inference cost, row by row.

Every row of the table (a threshold, a forced exit, the backbone, a control) plays the same n
seeds. All games of all rows are jobs in one queue; batches of emulators work them off side by
side, and every job is played out, so short games are not favoured. With two batches or more, the
network decides for one while the others emulate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from ztw_rl.atari.config import ActionMode
from ztw_rl.atari.emulators import EmulatorBatch
from ztw_rl.core.device import n_network_threads
from ztw_rl.core.exits import Confidence, ExitRule, Patience
from ztw_rl.core.metrics import relative_cost
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import decide
from ztw_rl.core.statistics import summarize
from ztw_rl.core.timing import threads

RuleName = Literal["confidence", "patience", "backbone", "forced", "random", "student"]
NOOP = 0


@dataclass(frozen=True)
class Row:
    """One row of the table: who decides which exit answers."""

    rule: RuleName
    threshold: float | None = None
    """τ of ``confidence`` and of the ``random`` control beside it; t of ``patience``; the exit
    of ``forced``; nothing for ``backbone`` and ``student``."""
    shares: tuple[float, ...] | None = None
    """``random`` only: how often each exit is drawn."""
    compared: bool = False
    """Whether the full model is asked as well, at every decision, to see how often the greedy
    actions differ."""


@dataclass
class Game:
    """One job: row ``row``'s game number ``number``, and how it went."""

    row: Row
    number: int
    points: float = 0.0
    length: int = 0
    exits: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(E,) decisions per exit."""
    n_differ: int = 0
    """Decisions whose greedy action is not the full model's; counted for ``compared`` rows."""


@dataclass(frozen=True)
class RowResult:
    """All games of one row."""

    row: Row
    returns: tuple[float, ...]
    """Raw points of each game, in the order of the seeds."""
    exit_shares: tuple[float, ...]
    """(E,) share of decisions that each exit took, over all games."""
    n_decisions: int
    disagreement: tuple[float, ...] | None = None
    """Share of each game's decisions that differ from the full model's, in the order of the
    seeds; of ``compared`` rows."""


def play(
    model: EarlyExitModel,
    batches: Sequence[EmulatorBatch],
    rows: Sequence[Row],
    *,
    n_episodes: int,
    seed: int,
    action_mode: ActionMode,
    device: torch.device,
    on_game: Callable[[Game], None] = lambda game: None,
) -> list[RowResult]:
    """Play ``n_episodes`` full games for each row.

    Args:
        model: The agent's model, in eval mode, on ``device``.
        batches: Games that take turns with the network; they are reset first. The results do not
            depend on how many there are.
        rows: What to play.
        n_episodes: Games per row.
        seed: Game k of every row has seed ``seed + k``.
        action_mode: How actions follow from probabilities.
        device: Where the model is.
        on_game: Called with each game that has ended.

    Returns:
        One result per row, in their order.
    """
    games = [Game(row, k) for k in range(n_episodes) for row in rows]
    queue = deque(games)
    with threads(n_network_threads() if device.type == "cpu" else torch.get_num_threads()):
        tables = [
            _Seats(model, emulators, queue, seed, action_mode, device) for emulators in batches
        ]
        for seats in tables:
            seats.send()
        while any(seats.busy for seats in tables):
            for seats in tables:
                for game in seats.receive():
                    on_game(game)
                seats.send()
    results = []
    for row in rows:
        own = sorted((g for g in games if g.row is row), key=lambda g: g.number)
        exits = np.sum([g.exits for g in own], axis=0)
        results.append(
            RowResult(
                row=row,
                returns=tuple(g.points for g in own),
                exit_shares=tuple((exits / exits.sum()).tolist()),
                n_decisions=int(exits.sum()),
                disagreement=(
                    tuple(g.n_differ / int(g.exits.sum()) for g in own) if row.compared else None
                ),
            )
        )
    return results


class _Seats:
    """The emulators, each with the game it plays and that game's random numbers."""

    def __init__(
        self,
        model: EarlyExitModel,
        emulators: EmulatorBatch,
        queue: deque[Game],
        seed: int,
        action_mode: ActionMode,
        device: torch.device,
    ) -> None:
        self._model = model
        self._emulators = emulators
        self._queue = queue
        self._seed = seed
        self._action_mode = action_mode
        self._device = device
        self._games: list[Game | None] = [None] * emulators.n_envs
        self._rngs: list[np.random.Generator] = [np.random.default_rng()] * emulators.n_envs
        # Every game is seeded when it is seated; a seed reloads the ROM, which takes 0.1 s.
        self._observations = emulators.reset(np.full(emulators.n_envs, -1, np.int64))
        self._fill(np.ones(emulators.n_envs, bool))

    @property
    def busy(self) -> bool:
        """Whether a game is still being played."""
        return any(self._games)

    def send(self) -> None:
        """Decide for every game and let the emulators begin; nothing if all are idle."""
        if not self.busy:
            return
        actions = np.full(len(self._games), NOOP, np.int64)
        for members, rule in self._groups():
            x = torch.from_numpy(self._observations[members]).to(self._device)
            decision = decide(self._model, x, rule)
            self._compare(x, decision.log_probs, members)
            actions[members] = self._choose(decision.log_probs.cpu().numpy(), members)
            for seat, m in zip(members, decision.left_at.tolist(), strict=True):
                game = self._games[seat]
                assert game is not None
                game.exits[m] += 1
        self._emulators.send(actions)

    def receive(self) -> list[Game]:
        """Wait for the step that ``send`` began; returns the games that ended."""
        if not self.busy:
            return []
        step = self._emulators.receive()
        self._observations = step.observations
        ended = []
        freed = np.zeros(len(self._games), bool)
        for seat, game in enumerate(self._games):
            if game is None:
                continue
            game.points += float(step.rewards[seat])
            game.length += 1
            if step.game_over[seat]:
                ended.append(game)
                freed[seat] = True
                self._games[seat] = None
        if ended:
            self._fill(freed)
        return ended

    def _fill(self, free: npt.NDArray[np.bool_]) -> None:
        """Give the next games in the queue to free emulators."""
        seeds = []
        which = np.zeros(len(self._games), bool)
        for seat in np.flatnonzero(free):
            if not self._queue:
                break
            game = self._queue.popleft()
            game.exits = np.zeros(self._model.n_exits, np.int64)
            self._games[seat] = game
            # A game's luck depends on its number alone, so rows meet the same and any number of
            # emulators gives the same games.
            self._rngs[seat] = np.random.default_rng((self._seed, game.number))
            which[seat] = True
            seeds.append(self._seed + game.number)
        if seeds:
            self._observations = self._emulators.reset(np.array(seeds, np.int64), which)

    def _groups(self) -> list[tuple[npt.NDArray[np.int64], ExitRule]]:
        """Busy emulators that can share a forward pass, and the rule they share."""
        n_ics = self._model.n_exits - 1
        patient, confident = [], []
        patiences, thresholds = [], []
        for seat, game in enumerate(self._games):
            if game is None:
                continue
            row = game.row
            if row.rule == "patience":
                patient.append(seat)
                patiences.append(int(row.threshold or 1))
            else:
                confident.append(seat)
                thresholds.append(self._thresholds(row, self._rngs[seat], n_ics))
        groups: list[tuple[list[int], ExitRule]] = [
            (patient, Patience(torch.tensor(patiences))),
            (confident, Confidence(torch.tensor(np.array(thresholds), dtype=torch.float32))),
        ]
        return [(np.array(seats), rule) for seats, rule in groups if seats]

    @staticmethod
    def _thresholds(row: Row, rng: np.random.Generator, n_ics: int) -> npt.NDArray[np.float64]:
        """(E−1,) thresholds that make a confidence rule do what the row wants."""
        if row.rule == "confidence":
            return np.full(n_ics, row.threshold)
        if row.rule == "forced":
            exit_index = int(row.threshold or 0)
        elif row.rule == "backbone":
            # A policy's own head is outside the ensemble, so the last exit is the backbone.
            exit_index = n_ics
        else:
            exit_index = int(rng.choice(n_ics + 1, p=row.shares))
        return np.where(np.arange(n_ics) == exit_index, -np.inf, np.inf)

    @torch.no_grad()
    def _compare(self, x: Tensor, log_probs: Tensor, members: npt.NDArray[np.int64]) -> None:
        """Count where the answers to ``x`` differ from the full model's, for rows that ask."""
        games = [self._games[seat] for seat in members]
        asked = [i for i, game in enumerate(games) if game is not None and game.row.compared]
        if not asked:
            return
        full = self._model.backbone(x[asked]).argmax(dim=-1)
        differ = (log_probs[asked].argmax(dim=-1) != full).tolist()
        for i, differs in zip(asked, differ, strict=True):
            game = games[i]
            assert game is not None
            game.n_differ += differs

    def _choose(
        self, log_probs: npt.NDArray[np.float32], members: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """(B,) actions."""
        if self._action_mode == "sample":
            noise = [self._rngs[seat].gumbel(size=log_probs.shape[1]) for seat in members]
            log_probs = log_probs + np.array(noise, np.float32)
        actions: npt.NDArray[np.int64] = log_probs.argmax(axis=1)
        return actions


def table(
    results: Sequence[RowResult], relative_macs: Sequence[float], relative_time: Sequence[float]
) -> pd.DataFrame:
    """The evaluation as one line per row.

    Args:
        results: What was played.
        relative_macs: (E,) operations of a decision that leaves at each exit, over the backbone's.
        relative_time: (E,) the same for measured time.

    Returns:
        Columns ``rule``, ``threshold``, ``episodes``, the five of ``statistics.Summary`` with
        the prefix ``return_``, ``relative_macs``, ``relative_time``, ``exit_share_<m>``.
    """
    lines = []
    for result in results:
        alone = result.row.rule == "backbone"
        summary = summarize(result.returns)
        lines.append(
            {
                "rule": result.row.rule,
                "threshold": result.row.threshold,
                "episodes": len(result.returns),
                **{f"return_{name}": value for name, value in asdict(summary).items()},
                "relative_macs": 1.0 if alone else relative_cost(result.exit_shares, relative_macs),
                "relative_time": 1.0 if alone else relative_cost(result.exit_shares, relative_time),
                **{f"exit_share_{m}": share for m, share in enumerate(result.exit_shares)},
            }
        )
    frame: pd.DataFrame = pd.DataFrame(lines)
    return frame


def evaluate(
    model: EarlyExitModel,
    batches: Sequence[EmulatorBatch],
    thresholds: Sequence[float],
    *,
    rule: Literal["confidence", "patience"] = "confidence",
    n_episodes: int,
    seed: int,
    action_mode: ActionMode,
    device: torch.device,
    compared: bool = False,
    on_game: Callable[[Game], None] = lambda game: None,
) -> list[RowResult]:
    """Play the whole table: the rule at every threshold, its controls, and the backbone.

    The controls are each exit forced alone, and, for each threshold, exits drawn at random as
    often as the rule took them.

    Args:
        model: The agent's model, in eval mode, on ``device``.
        batches: Games that take turns with the network.
        thresholds: τ, or t for the patience rule.
        rule: Who decides which exit answers.
        n_episodes: Games per row.
        seed: Game k of every row has seed ``seed + k``.
        action_mode: How actions follow from probabilities.
        device: Where the model is.
        compared: Whether the rule's rows ask the full model as well, at every decision.
        on_game: Called with each game that has ended.

    Returns:
        The rule's rows, the random controls, the forced exits, the backbone.
    """

    def play_all(rows: Sequence[Row]) -> list[RowResult]:
        return play(
            model,
            batches,
            rows,
            n_episodes=n_episodes,
            seed=seed,
            action_mode=action_mode,
            device=device,
            on_game=on_game,
        )

    adaptive = [Row(rule, threshold, compared=compared) for threshold in thresholds]
    forced = [Row("forced", float(m)) for m in range(model.n_exits)]
    first = play_all([*adaptive, *forced, Row("backbone")])
    n = len(adaptive)
    controls = play_all([Row("random", r.row.threshold, r.exit_shares) for r in first[:n]])
    return [*first[:n], *controls, *first[n:]]


def n_games(n_thresholds: int, n_exits: int, n_episodes: int) -> int:
    """How many games ``evaluate`` plays."""
    return (2 * n_thresholds + n_exits + 1) * n_episodes
