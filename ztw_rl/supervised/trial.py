"""A classifier's answers to images as a trial that an operating point is chosen from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from ztw_rl.core.choice import (
    ALWAYS,
    NEVER,
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
from ztw_rl.core.sweep import confidences, even_thresholds
from ztw_rl.supervised.evaluate import Answers

N_CANDIDATES = 51
"""Quantiles of the confidences that are tried as an IC's own threshold."""
FIXED = tuple(k / 1000 for k in range(1001))
"""Thresholds that no image was looked at for, as a guarantee asks."""


def thresholds_for(target: Target, answers: Answers) -> tuple[float, ...]:
    """The common thresholds that are tried, rising.

    Args:
        target: What is wanted.
        answers: Of the images that it is chosen on.
    """
    if isinstance(target, Risk):
        return FIXED
    found = even_thresholds(confidences(answers.log_probs))
    return tuple(found.tolist())


def trial_of(answers: Answers, points: Sequence[Point], costs: Sequence[float]) -> Trial:
    """What each point does to each image; samples that no exit lets go end at the last.

    Args:
        answers: From ``evaluate.collect``.
        points: Forced exits, then thresholds, rising.
        costs: E costs relative to the backbone.
    """
    labels = answers.log_probs.argmax(dim=-1).numpy()
    sure = confidences(answers.log_probs).numpy()
    truth, full = answers.labels.numpy(), answers.backbone.numpy()
    price = np.asarray(costs, float)
    n, n_exits = labels.shape
    right = np.empty((len(points), n), bool)
    differs = np.empty((n, len(points)), bool)
    paid = np.empty((len(points), n))
    for t, point in enumerate(points):
        # Rounded as confidences are.
        taus = np.asarray(point.each(n_exits - 1), np.float32)
        leaves = np.concatenate([sure > taus, np.ones((n, 1), bool)], axis=1)
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


def points_for(target: Target, answers: Answers) -> tuple[Point, ...]:
    """Every early exit alone, and the common thresholds that are tried.

    Args:
        target: What is wanted.
        answers: Of the images that it is chosen on.
    """
    n_ics = answers.log_probs.shape[1] - 1
    swept = map(Threshold, thresholds_for(target, answers))
    return (*map(Forced, range(n_ics)), *swept)


def worth(answers: Answers, point: Point, costs: Sequence[float]) -> Outcome:
    """What one point does to images.

    Args:
        answers: From ``evaluate.collect``.
        point: What is judged.
        costs: E costs relative to the backbone.
    """
    return trial_of(answers, [point], costs).outcome(0)


def choose_per_exit(
    target: Budget, answers: Answers, costs: Sequence[float]
) -> Choice | Unreachable:
    """One threshold for each exit, the most accurate found within a budget.

    See ``core.choice.per_exit_thresholds``.

    Args:
        target: The budget.
        answers: Of the images that it is chosen on.
        costs: E costs relative to the backbone.
    """
    found = choose(target, trial_of(answers, points_for(target, answers), costs))
    if isinstance(found, Unreachable):
        return found
    point = _per_exit(target, answers, costs, found.point)

    def pick(units: npt.NDArray[np.int64]) -> Threshold:
        here = answers.at(torch.from_numpy(units))
        common = choose(target, trial_of(here, points_for(target, here), costs))
        if isinstance(common, Unreachable):
            raise ValueError(common.why)
        return _per_exit(target, here, costs, common.point)

    try:
        chosen = by_halves(pick, len(answers))
    except ValueError:
        expected = None
    else:
        expected = mean_outcome(
            [worth(answers.at(torch.from_numpy(units)), own, costs) for own, units in chosen]
        )
    return Choice(point, worth(answers, point, costs), expected)


def _per_exit(target: Budget, answers: Answers, costs: Sequence[float], common: Point) -> Threshold:
    """From the best common point on."""
    sure = answers.log_probs.amax(dim=-1).exp().numpy()
    right = (answers.log_probs.argmax(dim=-1) == answers.labels.unsqueeze(1)).numpy()
    shares = np.linspace(0, 1, N_CANDIDATES)
    tried = np.unique(np.nanquantile(sure[:, :-1], shares)).tolist()
    start = common.each(sure.shape[1] - 1)
    return Threshold(
        per_exit_thresholds(sure, right, costs, start, (ALWAYS, *tried, NEVER), target.cost)
    )
