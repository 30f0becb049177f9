"""A classifier's answers to images as a trial that an operating point is chosen from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from ztw_rl.core.choice import (
    RULES,
    Budget,
    Choice,
    Costs,
    Forced,
    Outcome,
    Point,
    Risk,
    Target,
    Threshold,
    Trial,
    Unreachable,
    by_halves,
    choose,
    mean_outcome,
    per_exit_thresholds,
)
from ztw_rl.decision import Rule, bound, never
from ztw_rl.supervised.evaluate import Answers, scores_by, thresholds_among

N_CANDIDATES = 51
"""Quantiles of the scores that are tried as an IC's own threshold."""
FIXED = tuple(k / 1000 for k in range(1001))
"""Thresholds that no image was looked at for, as a guarantee asks; a gate's go from 1 to −1."""


def thresholds_for(target: Target, answers: Answers, rule: Rule) -> tuple[float, ...]:
    """The common thresholds that are tried, from bold to cautious.

    Args:
        target: What is wanted.
        answers: Of the images that it is chosen on.
        rule: What exits are judged by.
    """
    if isinstance(target, Risk):
        # Regrets begin at −1, where only the exit is right.
        return tuple(1 - 2 * t for t in FIXED) if rule == "gate" else FIXED
    found = thresholds_among(scores_by(rule, answers), rule)
    return tuple(bound(rule, level) for level in found.tolist())


def trial_of(answers: Answers, points: Sequence[Point], costs: Sequence[float]) -> Trial:
    """What each point does to each image; samples that no exit lets go end at the last.

    Args:
        answers: From ``evaluate.collect``.
        points: Forced exits, then thresholds, rising.
        costs: E costs relative to the backbone.
    """
    labels = answers.log_probs.argmax(dim=-1).numpy()
    scores = {rule: scores_by(rule, answers).numpy() for rule in {p.rule for p in points}}
    truth, full = answers.labels.numpy(), answers.backbone.numpy()
    price = np.asarray(costs, float)
    n, n_exits = labels.shape
    right = np.empty((len(points), n), bool)
    differs = np.empty((n, len(points)), bool)
    paid = np.empty((len(points), n))
    for t, point in enumerate(points):
        # Rounded as scores are.
        bounds = np.array([bound(point.rule, t) for t in point.each(n_exits - 1)], np.float32)
        leaves = np.concatenate([scores[point.rule] > bounds, np.ones((n, 1), bool)], axis=1)
        exits = leaves.argmax(axis=1)
        said = labels[np.arange(n), exits]
        right[t], differs[:, t], paid[t] = said == truth, said != full, price[exits]
    once = np.broadcast_to(np.float64(1), paid.shape)
    return Trial(
        points=tuple(points),
        scores=right,
        costs=Costs(paid, once),
        full=full == truth,
        no_skill=0.0,
        unit="images",
        disagreement=differs,
    )


def points_for(target: Target, answers: Answers, rule: Rule = "confidence") -> tuple[Point, ...]:
    """Every early exit alone, unless gates judge, and the common thresholds that are tried.

    Args:
        target: What is wanted.
        answers: Of the images that it is chosen on.
        rule: What exits are judged by.
    """
    n_ics = answers.log_probs.shape[1] - 1
    swept = map(RULES[rule], thresholds_for(target, answers, rule))
    # An exit alone needs no gate, and has other costs.
    alone = () if rule == "gate" else map(Forced, range(n_ics))
    return (*alone, *swept)


def worth(answers: Answers, point: Point, costs: Sequence[float]) -> Outcome:
    """What one point does to images.

    Args:
        answers: From ``evaluate.collect``.
        point: What is judged.
        costs: E costs relative to the backbone.
    """
    return trial_of(answers, [point], costs).outcome(0)


def choose_per_exit(
    target: Budget, answers: Answers, costs: Sequence[float], rule: Rule = "confidence"
) -> Choice | Unreachable:
    """One threshold for each exit, the most accurate found within a budget.

    See ``core.choice.per_exit_thresholds``.

    Args:
        target: The budget.
        answers: Of the images that it is chosen on.
        costs: E costs relative to the backbone.
        rule: What exits are judged by.
    """
    found = choose(target, trial_of(answers, points_for(target, answers, rule), costs))
    if isinstance(found, Unreachable):
        return found
    point = _per_exit(target, answers, costs, found.point, rule)

    def pick(units: npt.NDArray[np.int64]) -> Threshold:
        here = answers.at(torch.from_numpy(units))
        common = choose(target, trial_of(here, points_for(target, here, rule), costs))
        if isinstance(common, Unreachable):
            raise ValueError(common.why)
        return _per_exit(target, here, costs, common.point, rule)

    try:
        chosen = by_halves(pick, len(answers))
    except ValueError:
        expected = None
    else:
        expected = mean_outcome(
            [worth(answers.at(torch.from_numpy(units)), own, costs) for own, units in chosen]
        )
    return Choice(point, worth(answers, point, costs), expected)


def _per_exit(
    target: Budget, answers: Answers, costs: Sequence[float], common: Point, rule: Rule
) -> Threshold:
    """From the best common point on."""
    scores = scores_by(rule, answers).numpy()
    right = (answers.log_probs.argmax(dim=-1) == answers.labels.unsqueeze(1)).numpy()
    shares = np.linspace(0, 1, N_CANDIDATES)
    tried = np.unique(np.quantile(scores[np.isfinite(scores)], shares)).tolist()
    stays = bound(rule, never(rule))
    if isinstance(common, Forced):
        start = [-stays if m == common.exit else stays for m in range(scores.shape[1])]
    else:
        start = [bound(rule, t) for t in common.each(scores.shape[1])]
    found = per_exit_thresholds(scores, right, costs, start, (-stays, *tried, stays), target.cost)
    return RULES[rule](tuple(bound(rule, level) for level in found))
