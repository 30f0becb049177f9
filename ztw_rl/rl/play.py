"""Emulators with the games that they play: which game each plays, what is decided, what is next."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ztw_rl.core import exits
from ztw_rl.core.choice import Forced, Patience, Threshold
from ztw_rl.core.exits import Exceeds, ExitRule
from ztw_rl.core.runtime import Backend, decide, signals
from ztw_rl.decision import Rule, bound
from ztw_rl.rl.batch import EnvBatch
from ztw_rl.rl.config import ActionMode
from ztw_rl.rl.rows import RandomExits, Row

NOOP = 0


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
    start: int = 0
    """Steps of the simulator before the first decision."""
    film: int = 0
    """Checksum of all that was seen: equal games have equal ones."""
    signals: list[npt.NDArray[np.float32]] = field(default_factory=list)
    """(E−1,) per decision, what every exit was judged by; of ``observed`` rows."""


class Slots:
    """The emulators, each with the game it plays and that game's random numbers."""

    def __init__(
        self,
        backend: Backend,
        judges: Mapping[Rule, Backend],
        emulators: EnvBatch,
        queue: deque[Game],
        seed: int,
        action_mode: ActionMode,
        device: torch.device,
    ) -> None:
        self._backend = backend
        self._judges = {"confidence": backend, **judges}
        self._emulators = emulators
        self._queue = queue
        self._seed = seed
        self._action_mode = action_mode
        self._device = device
        self._games: list[Game | None] = [None] * emulators.n_envs
        self._rngs: list[np.random.Generator] = [np.random.default_rng()] * emulators.n_envs
        n_ics = backend.n_exits - 1
        self._leaving_at: npt.NDArray[np.float64] = np.where(
            np.arange(n_ics) == np.arange(n_ics + 1)[:, None], -np.inf, np.inf
        )
        self._bounds = np.zeros((emulators.n_envs, n_ics), np.float32)
        # Every game is seeded when it is begun, which takes ALE 0.1 s.
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
        for members, backend, rule in self._groups():
            x = torch.from_numpy(self._observations[members]).to(self._device)
            decision = decide(backend.segments, x, rule)
            left_at = decision.exits.tolist()
            self._compare(x, decision.labels, left_at, members)
            self._observe(x, members)
            actions[members] = self._choose(decision.log_probs, members)
            for slot, m in zip(members, left_at, strict=True):
                game = self._games[slot]
                assert game is not None
                game.exits[m] += 1
                game.film = crc32(self._observations[slot], game.film)
        self._emulators.send(actions)

    def receive(self) -> list[Game]:
        """Wait for the step that ``send`` began; returns the games that ended."""
        if not self.busy:
            return []
        step = self._emulators.receive()
        self._observations = step.observations
        ended = []
        freed = np.zeros(len(self._games), bool)
        for slot, game in enumerate(self._games):
            if game is None:
                continue
            game.points += float(step.rewards[slot])
            game.length += 1
            if step.ended[slot]:
                ended.append(game)
                freed[slot] = True
                self._games[slot] = None
        if ended:
            self._fill(freed)
        return ended

    def _fill(self, free: npt.NDArray[np.bool_]) -> None:
        """Give the next games in the queue to free emulators."""
        seeds = []
        which = np.zeros(len(self._games), bool)
        for slot in np.flatnonzero(free):
            if not self._queue:
                break
            game = self._queue.popleft()
            game.exits = np.zeros(self._backend.n_exits, np.int64)
            self._games[slot] = game
            # A game's luck depends on its number alone, so any number of emulators gives the same
            # games. Rows meet the same, but for exits at random beside sampled actions.
            self._rngs[slot] = np.random.default_rng((self._seed, game.number))
            self._bounds[slot] = self._bounds_of(game.row)
            which[slot] = True
            seeds.append(self._seed + game.number)
        if seeds:
            self._observations = self._emulators.reset(np.array(seeds, np.int64), which)
            for slot in np.flatnonzero(which):
                begun = self._games[slot]
                assert begun is not None
                begun.start = int(self._emulators.episode_frames[slot])

    def _groups(self) -> list[tuple[npt.NDArray[np.int64], Backend, ExitRule]]:
        """Busy emulators that can share a forward pass, what runs it, and the rule they share."""
        patient, patiences = [], []
        judged: dict[Rule, list[int]] = {rule: [] for rule in self._judges}
        for slot, game in enumerate(self._games):
            if game is None:
                continue
            who = game.row.who
            if isinstance(who, Patience):
                patient.append(slot)
                patiences.append(who.exits)
                continue
            judged[who.rule if isinstance(who, Threshold) else "confidence"].append(slot)
            if isinstance(who, RandomExits):
                # As ``Generator.choice`` draws, which takes ten times as long.
                drawn = np.searchsorted(who.cumulated, self._rngs[slot].random(), side="right")
                self._bounds[slot] = self._leaving_at[drawn]
        groups: list[tuple[list[int], Backend, ExitRule]] = [
            (patient, self._backend, exits.Patience(torch.tensor(patiences)))
        ]
        for rule, slots in judged.items():
            bounds = torch.from_numpy(self._bounds[slots])
            groups.append((slots, self._judges[rule], Exceeds(bounds)))
        return [(np.array(slots), backend, rule) for slots, backend, rule in groups if slots]

    def _bounds_of(self, row: Row) -> npt.NDArray[np.float64]:
        """(E−1,) bounds that make the signals do what the row wants."""
        who = row.who
        if isinstance(who, Threshold):
            return np.array([bound(who.rule, t) for t in who.each(self._backend.n_exits - 1)])
        # A policy's own head is outside the ensemble, so the last exit is the backbone.
        exit_index = who.exit if isinstance(who, Forced) else -1
        bounds: npt.NDArray[np.float64] = self._leaving_at[exit_index]
        return bounds

    def _compare(
        self,
        x: Tensor,
        labels: npt.NDArray[np.int64],
        left_at: list[int],
        members: npt.NDArray[np.int64],
    ) -> None:
        """Count where the answers to ``x`` differ from the full model's, for rows that ask."""
        games = [self._games[slot] for slot in members]
        # The last exit's answer is the full model's.
        early = [m < self._backend.n_exits - 1 for m in left_at]
        asked = [i for i, g in enumerate(games) if g is not None and g.row.compared and early[i]]
        if not asked:
            return
        full = self._backend.backbone(x[asked]).argmax(dim=-1).cpu().numpy()
        differ = (labels[asked] != full).tolist()
        for i, differs in zip(asked, differ, strict=True):
            game = games[i]
            assert game is not None
            game.n_differ += differs

    def _observe(self, x: Tensor, members: npt.NDArray[np.int64]) -> None:
        """Write down what exits are judged by, for rows that ask."""
        games = [self._games[slot] for slot in members]
        for rule, judge in self._judges.items():
            asked = [i for i, g in enumerate(games) if g is not None and g.row.observed == rule]
            if not asked:
                continue
            found = signals(judge.segments, x[asked]).cpu().numpy()
            for i, row in zip(asked, found, strict=True):
                game = games[i]
                assert game is not None
                game.signals.append(row)

    def _choose(
        self, log_probs: npt.NDArray[np.floating[Any]], members: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """(B,) actions."""
        if self._action_mode == "sample":
            noise = [self._rngs[slot].gumbel(size=log_probs.shape[1]) for slot in members]
            log_probs = log_probs + np.array(noise, np.float32)
        actions: npt.NDArray[np.int64] = log_probs.argmax(axis=1)
        return actions
