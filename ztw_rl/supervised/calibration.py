"""Which thresholds a classifier is deployed with, and what they are worth on other images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ztw_rl.core import selection
from ztw_rl.core.budgets import choose as choose_within
from ztw_rl.core.budgets import random_halves
from ztw_rl.core.calibration import fewest_units, per_exit_thresholds
from ztw_rl.core.exits import Confidence, select
from ztw_rl.core.sweep import Curve
from ztw_rl.errors import UserError
from ztw_rl.supervised.evaluate import Answers, score
from ztw_rl.supervised.risk import controlled_threshold

N_CANDIDATES = 51
"""Quantiles of the confidences that are tried as an IC's own threshold."""

Threshold = float | tuple[float, ...]
"""τ of all ICs, or of each."""
Choose = Callable[[Answers], Threshold]
"""A rule for choosing from images; it raises UserError where no threshold will do."""


@dataclass(frozen=True)
class Worth:
    """What thresholds do to images; the fallback is ``exits.last``."""

    accuracy: float
    """0 … 1."""
    cost: float
    """Mean, relative to the backbone's."""
    disagreement: float
    """Share of the images that are answered otherwise than by the backbone alone."""


def worth(answers: Answers, threshold: Threshold, costs: Sequence[float]) -> Worth:
    """What thresholds do to images.

    Args:
        answers: From ``evaluate.collect``.
        threshold: τ of all ICs, or of each.
        costs: E costs relative to the backbone.
    """
    n_ics = answers.log_probs.shape[1] - 1
    rule = Confidence(torch.tensor(threshold, dtype=torch.float32).expand(n_ics))
    exits, _ = select(answers.log_probs, rule)
    said = answers.log_probs[torch.arange(len(answers)), exits].argmax(dim=-1)
    return Worth(
        (said == answers.labels).double().mean().item(),
        torch.tensor(costs, dtype=torch.float64)[exits].mean().item(),
        (said != answers.backbone).double().mean().item(),
    )


def cross_fitted(
    choose: Choose, answers: Answers, costs: Sequence[float], seed: int = 0
) -> Worth | None:
    """Choose on one random half of the images, report on the other, swap, and average.

    Args:
        choose: The rule.
        answers: Of images that are all alike, such as a test set.
        costs: E costs relative to the backbone.
        seed: Of the halves.

    Returns:
        Averages weighted by the halves' sizes; None if a half has no threshold.
    """
    halves = [answers.at(index) for index in random_halves(len(answers), seed)]
    try:
        found = [
            worth(there, choose(here), costs)
            for here, there in zip(halves, reversed(halves), strict=True)
        ]
    except UserError:
        return None
    weights = [len(there) for there in reversed(halves)]
    return Worth(
        *(
            float(np.average([getattr(w, name) for w in found], weights=weights))
            for name in ("accuracy", "cost", "disagreement")
        )
    )


def within(budget: float, costs: Sequence[float]) -> Choose:
    """The largest common threshold whose mean cost does not exceed a budget; see ``core.budgets``.

    Args:
        budget: Such as 0.6.
        costs: E costs relative to the backbone.
    """

    def choose(answers: Answers) -> float:
        curve = _curve(answers, costs)
        i = choose_within(curve, budget)
        if i is None:
            lowest = curve.relative_macs.min().item()
            raise UserError(f"--budget {budget:g} is below the lowest cost, {lowest:.3f}")
        return float(curve.thresholds[i])

    return choose


def within_per_exit(budget: float, costs: Sequence[float]) -> Choose:
    """One threshold per IC, the most accurate found within a budget; see ``core.calibration``.

    Args:
        budget: Such as 0.6.
        costs: E costs relative to the backbone.
    """

    def choose(answers: Answers) -> tuple[float, ...]:
        confidences = answers.log_probs.amax(dim=-1).exp().numpy()
        right = (answers.log_probs.argmax(dim=-1) == answers.labels.unsqueeze(1)).numpy()
        shares = np.linspace(0, 1, N_CANDIDATES)
        candidates = np.unique(np.nanquantile(confidences[:, :-1], shares)).tolist()
        return per_exit_thresholds(confidences, right, costs, candidates, budget)

    return choose


def keeping(share: float, costs: Sequence[float]) -> Choose:
    """The cheapest common threshold that keeps a share of the backbone's accuracy.

    Args:
        share: Such as 0.99.
        costs: E costs relative to the backbone.
    """

    def choose(answers: Answers) -> float:
        curve = _curve(answers, costs)
        full = answers.backbone_accuracy
        if not full:
            raise UserError("the backbone gets no image right, so there is nothing to keep")
        rule = selection.keeping(0.0, share)
        i = rule(curve.accuracy.numpy(), full, curve.relative_macs.numpy())
        if i is None:
            raise UserError(
                f"--keep {share:g} needs an accuracy of {share * full:.2%}, and no threshold has "
                "it at a lower cost than the full model; ask for less"
            )
        return float(curve.thresholds[i])

    return choose


def controlling(risk: float, confidence: float) -> Choose:
    """The smallest common threshold that rarely contradicts the backbone, guaranteed; see ``risk``.

    Args:
        risk: Largest expected share of images whose label differs from the backbone's.
        confidence: Probability, over the draw of the images, that the guarantee holds.
    """

    def choose(answers: Answers) -> float:
        found = controlled_threshold(answers, risk, confidence)
        if found is None:
            never = worth(answers, 1.0, [0.0] * answers.log_probs.shape[1]).disagreement
            raise UserError(
                f"{len(answers)} images cannot show that the risk is at most {risk:g} even where "
                f"no IC answers and {never:.2%} of the labels differ; "
                f"{fewest_units(risk, confidence)} images without any difference are the least "
                "that can: ask for a larger --risk"
            )
        return found

    return choose


def _curve(answers: Answers, costs: Sequence[float]) -> Curve:
    return score(answers, costs, "confidence", "last").curve()
