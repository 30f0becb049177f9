"""Which setting of a rule makes a decision cost what is asked for.

Thresholds move when the policy acts by them, since other states are met. So short evaluations are
played with a candidate, what every exit would have said is written down, and the candidate is
corrected; again and again, on games that no table plays. The first candidate comes from states that
the full policy met. From the second on they hardly differ, and all their games count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ztw_rl.core.choice import RULES
from ztw_rl.core.runtime import Backend
from ztw_rl.decision import Rule, bound
from ztw_rl.errors import UserError
from ztw_rl.rl.batch import EnvBatch
from ztw_rl.rl.config import ActionMode
from ztw_rl.rl.evaluate import RelativeCosts, RowResult, play
from ztw_rl.rl.rows import Full, Row

SEED = 1_000_000
"""Added to the table's seed."""
N_GAMES = 10
"""Of each candidate in each round."""
N_ROUNDS = 5
FAR = 0.01
"""Rows that are compared cost what they should, and the same, up to this."""
N_CORRECTIONS = 5
"""How often a table's row is played again at another threshold."""
SPAN = 0.02
"""Of costs on both sides of the aim, between which the slope is taken."""


@dataclass(frozen=True)
class Found:
    """A threshold that realises a cost."""

    threshold: float
    slope: float
    """By how much it moves for one more of cost."""


def bound_for(signals: npt.NDArray[np.float32], costs: Sequence[float], aim: float) -> float:
    """The bound at which a decision costs ``aim`` on average.

    Args:
        signals: (N, E−1), what every exit was judged by in N decisions.
        costs: (E,) of leaving at each exit, rising.
        aim: Mean cost.

    Returns:
        A bound of all ICs: the highest whose mean cost is at most ``aim``, or one below all
        signals.

    Raises:
        UserError: No signal is a number.
    """
    candidates = np.unique(signals[np.isfinite(signals)])
    if not len(candidates):
        raise UserError("no exit says a number: the weights are broken; train them again")
    # Costs rise with the bound: of the candidates, the last that is cheap enough.
    low, high = -1, len(candidates) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if mean_cost(signals, costs, candidates[middle]) <= aim:
            low = middle
        else:
            high = middle - 1
    if low < 0:
        return float(np.nextafter(candidates[0], np.float32(-np.inf)))
    return float(candidates[low])


def mean_cost(signals: npt.NDArray[np.float32], costs: Sequence[float], level: float) -> float:
    """What a decision costs on average at a bound.

    Args:
        signals: (N, E−1), what every exit was judged by in N decisions.
        costs: (E,) of leaving at each exit.
        level: The bound.
    """
    never = np.ones((len(signals), 1), bool)
    leaves = np.concatenate([signals > level, never], axis=1)
    return float(np.asarray(costs, float)[leaves.argmax(axis=1)].mean())


def check_costs(aims: Sequence[float], costs: Sequence[float], rule: Rule) -> None:
    """Find out whether thresholds can realise some costs.

    Args:
        aims: What is asked for.
        costs: (E,) of leaving at each exit.
        rule: What exits are judged by.

    Raises:
        UserError: One lies below the cheapest exit, or above going to the end.
    """
    for aim in aims:
        if not costs[0] < aim < costs[-1]:
            raise UserError(
                f"--costs {aim:g} cannot be reached: judged by {rule}, a decision costs "
                f"{costs[0]:.3f} at the first exit and {costs[-1]:.3f} at the end"
            )


def calibrate(
    backend: Backend,
    batches: Sequence[EnvBatch],
    wanted: Mapping[Rule, Sequence[float]],
    relative: RelativeCosts,
    *,
    seed: int,
    action_mode: ActionMode,
    device: torch.device,
    judges: Mapping[Rule, Backend],
    on_round: Callable[[int], None] = lambda number: None,
) -> dict[Rule, tuple[Found, ...]]:
    """Thresholds of some rules at which decisions cost what is asked for.

    Args:
        backend: See ``evaluate.play``.
        batches: Games.
        wanted: Mean costs of a decision, by rule.
        relative: Costs of leaving at each exit, by rule.
        seed: The table's.
        action_mode: How actions follow from probabilities.
        device: Where observations go.
        judges: See ``evaluate.play``.
        on_round: Called with the number of each round before it begins.

    Returns:
        By rule, what was found for each cost.
    """
    wishes: list[_Wish] = [(rule, aim) for rule, aims in wanted.items() for aim in aims]
    played: dict[_Wish, list[RowResult]] = {wish: [] for wish in wishes}

    def observe(rows: Sequence[Row], number: int) -> list[RowResult]:
        on_round(number)
        return play(
            backend,
            batches,
            rows,
            n_episodes=N_GAMES,
            seed=seed + SEED + number * N_GAMES,
            action_mode=action_mode,
            device=device,
            judges=judges,
        )

    full = observe([Row(Full(), observed=rule) for rule in wanted], 0)
    met = dict(zip(wanted, full, strict=True))
    found = {(rule, aim): _found(rule, aim, [met[rule]], relative[rule]) for rule, aim in wishes}
    for number in range(1, N_ROUNDS + 1):
        rows = [Row(RULES[rule](found[rule, aim].threshold), observed=rule) for rule, aim in wishes]
        for wish, result in zip(wishes, observe(rows, number), strict=True):
            rule, aim = wish
            played[wish].append(result)
            found[wish] = _found(rule, aim, played[wish][1:] or [result], relative[rule])
    return {rule: tuple(found[rule, aim] for aim in aims) for rule, aims in wanted.items()}


def _found(rule: Rule, aim: float, played: Sequence[RowResult], costs: Sequence[float]) -> Found:
    """What realises a cost in the states that were met in some games."""
    signals = np.concatenate([result.signals for result in played])
    low, high = max(aim - SPAN, costs[0]), min(aim + SPAN, costs[-1])
    # A bound is minus a regret, and a threshold minus that.
    cheap, found, dear = (bound(rule, bound_for(signals, costs, cost)) for cost in (low, aim, high))
    return Found(found, (dear - cheap) / (high - low))


def to_correct(aim: float, realised: Sequence[float]) -> list[bool]:
    """Which rows of one cost are to be played again: those that are off, or the furthest of two.

    Args:
        aim: What they were to cost.
        realised: What they cost.
    """
    misses = np.abs(np.asarray(realised) - aim)
    off = misses > FAR
    if not off.any() and max(realised) - min(realised) > FAR:
        off[misses.argmax()] = True
    found: list[bool] = off.tolist()
    return found


def corrected(threshold: float, slope: float, aim: float, realised: float) -> float:
    """The threshold that would have realised a cost, were nothing else to change.

    Args:
        threshold: What was tried.
        slope: By how much it moves for one more of cost.
        aim: What was to be realised.
        realised: What was.
    """
    return threshold + slope * (aim - realised)


_Wish = tuple[Rule, float]
"""A rule, and what a decision is to cost."""
