from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from ztw_rl.core.choice import (
    RULES,
    Budget,
    Forced,
    Gate,
    Keep,
    Risk,
    Threshold,
    Unreachable,
    choose,
)
from ztw_rl.core.exits import Exceeds, select
from ztw_rl.decision import bound
from ztw_rl.errors import UserError
from ztw_rl.supervised.evaluate import Answers
from ztw_rl.supervised.trial import choose_per_exit, points_for, trial_of, worth

COSTS = (0.2, 0.6, 1.1)


def answers(first: list[float], right: list[list[int]]) -> Answers:
    """Two classes; exit 0 as sure as ``first`` says, exit 1 never, the backbone right or wrong."""
    confidence = torch.tensor(first)
    sure = torch.stack([confidence, torch.full_like(confidence, 0.5), torch.ones(len(first))], 1)
    good = torch.tensor(right).bool()
    p = torch.where(good, sure, 1 - sure)
    log_probs = torch.stack([p, 1 - p], dim=-1).clamp_min(1e-9).log()
    zeros = torch.zeros(len(first), dtype=torch.int64)
    return Answers(log_probs, (~good[:, -1]).long(), zeros)


FOUR = answers([0.9, 0.8, 0.7, 0.6], [[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 1, 0]])


def test_worth_by_hand():
    # Images 0 and 1 leave at exit 0; 2 goes to the end, and so does 3, where the backbone errs.
    found = worth(FOUR, Threshold(0.75), COSTS)
    assert (found.score, found.cost, found.disagreement) == pytest.approx((0.75, 0.65, 0))
    # Image 2 too leaves at exit 0, and is wrong there.
    found = worth(FOUR, Threshold((0.65, 0.9)), COSTS)
    assert (found.score, found.cost, found.disagreement) == pytest.approx((0.5, 0.425, 0.25))
    found = worth(FOUR, Forced(0), COSTS)
    assert (found.score, found.cost, found.disagreement) == pytest.approx((0.5, 0.2, 0.25))


def chosen(target, answers=FOUR):
    return choose(target, trial_of(answers, points_for(target, answers), COSTS))


def test_a_budget_takes_the_most_accurate_within_it():
    found = chosen(Budget(0.65))
    # Exit 1 alone is as right as the backbone on all but one, at 0.6.
    assert (found.point, found.on_all.score, found.on_all.cost) == (Forced(1), 1.0, 0.6)
    assert chosen(Budget(0.1)).why.startswith("is below the lowest cost, 0.200")


def test_keeping_takes_the_cheapest():
    found = chosen(Keep(1.0))
    # 0.7 is not exceeded by 0.7: images 0 and 1 leave at once, 0.65 of the backbone's cost.
    assert found.on_all.score >= 0.75
    assert found.on_all.cost == pytest.approx(0.6)
    assert chosen(Keep(1.5)).why.startswith("needs a score of 1.125, and nothing has it")
    assert "nothing to keep" in chosen(Keep(0.5), answers([0.9, 0.9], [[0, 0, 0]] * 2)).why


def test_risk_without_enough_images():
    assert re.match(r"cannot be shown by 4 images: .* images without any", chosen(Risk(0.02)).why)


def test_a_threshold_is_rounded_as_confidences_are():
    """0.7 in single precision is below 0.7: an image exactly as sure as τ stays."""
    exact = answers([0.7], [[0, 1, 1]])
    assert worth(exact, Threshold(0.7), COSTS).score == 1
    assert worth(exact, Threshold(0.6999), COSTS).score == 0


def test_the_same_as_the_exit_rule_says():
    drawn = random_answers(0, 500)
    points = [Threshold(t / 10) for t in range(11)]
    trial = trial_of(drawn, points, COSTS)
    for t, point in enumerate(points):
        exits, by = select(drawn.log_probs, Exceeds.uniform(point.value, 3))
        said = drawn.log_probs[torch.arange(500), by].argmax(dim=-1)
        assert trial.scores[t].tolist() == (said == drawn.labels).tolist()
        assert trial.disagreement[:, t].tolist() == (said != drawn.backbone).tolist()
        assert trial.costs.means[t].tolist() == [COSTS[m] for m in exits.tolist()]


@pytest.mark.parametrize("rule", ["margin", "gate"])
@pytest.mark.parametrize("target", [Budget(0.6), Risk(0.3)])
def test_other_rules_leave_as_the_exit_rule_says(rule, target):
    drawn = random_answers(0, 300)
    top = drawn.log_probs[:, :-1].exp().topk(2, dim=-1).values
    judged = replace(drawn, signals=torch.randn(300, 2, generator=torch.Generator().manual_seed(0)))
    found = judged.signals if rule == "gate" else top[..., 0] - top[..., 1]
    points = [p for p in points_for(target, judged, rule) if not isinstance(p, Forced)]
    assert {type(point) for point in points} == {RULES[rule]}
    trial = trial_of(judged, points, COSTS)
    # From bold to cautious.
    costs = trial.costs.on()
    assert (np.diff(costs) >= 0).all()
    assert costs[0] < costs[-1]
    for t in (0, len(points) // 2, len(points) - 1):
        level = bound(rule, points[t].value)
        _, by = select(judged.log_probs, Exceeds.uniform(level, 3), signals=found)
        said = judged.log_probs[torch.arange(300), by].argmax(dim=-1)
        assert trial.scores[t].tolist() == (said == judged.labels).tolist()


def test_a_gate_that_knows_needs_no_threshold_for_each_exit():
    drawn = random_answers(0, 500)
    right = drawn.log_probs.argmax(dim=-1) == 0
    judged = replace(drawn, signals=right[:, :-1].float() - right[:, -1:].float())
    common = choose(Budget(0.8), trial_of(judged, points_for(Budget(0.8), judged, "gate"), COSTS))
    assert isinstance(common.point, Gate)
    assert common.on_all.score == 1
    own = choose_per_exit(Budget(0.8), judged, COSTS, "gate")
    assert isinstance(own.point, Gate)
    assert len(own.point.value) == 2
    assert own.on_all.score == 1


def test_without_gates():
    with pytest.raises(UserError, match="the classifier has no gates; train-ics fits them"):
        points_for(Budget(0.8), random_answers(0, 5), "gate")


def random_answers(seed: int, n: int) -> Answers:
    """Exit 0 errs more the less sure it is; exit 1 is as good as a coin, but sure of itself."""
    rng = np.random.default_rng(seed)
    first = rng.uniform(0.5, 1, n)
    right = np.stack([rng.random(n) < first, rng.random(n) < 0.5, np.ones(n, bool)], axis=1)
    sure = np.stack([first, rng.uniform(0.9, 1, n), np.full(n, 0.999)], axis=1)
    p = torch.from_numpy(np.where(right, sure, 1 - sure)).float()
    zeros = torch.zeros(n, dtype=torch.int64)
    return Answers(torch.stack([p, 1 - p], dim=-1).log(), zeros, zeros)


def test_a_threshold_for_each_exit_beats_a_common_one_on_other_images():
    here, there = random_answers(0, 2000), random_answers(1, 2000)
    target = Budget(0.8)
    common = choose(target, trial_of(here, points_for(target, here), COSTS))
    own = choose_per_exit(target, here, COSTS)
    assert worth(there, own.point, COSTS).score > worth(there, common.point, COSTS).score + 0.02
    assert worth(there, own.point, COSTS).cost < 0.82
    assert own.expected.score == pytest.approx(own.on_all.score, abs=0.05)
    assert choose_per_exit(Budget(0.01), here, COSTS).why.startswith("is below the lowest cost, ")


def mistaken(n: int) -> Answers:
    """Exit 0 contradicts the last exit as often as its confidence p says: in 1 − p of cases."""
    generator = torch.Generator().manual_seed(0)
    p = 0.5 + torch.rand(n, generator=generator) / 2
    agrees = torch.rand(n, generator=generator) < p
    first = torch.stack([p, 1 - p], dim=1)
    first = torch.where(agrees.unsqueeze(1), first, first.flip(1))
    last = torch.tensor([0.9, 0.1]).expand(n, 2)
    labels = torch.zeros(n, dtype=torch.int64)
    return Answers(torch.stack([first, last], dim=1).log(), labels, labels)


def safe(answers: Answers):
    target = Risk(0.04)
    return choose(target, trial_of(answers, points_for(target, answers), (0.2, 1.1)))


def test_a_guaranteed_threshold_keeps_the_risk_and_hardly_more():
    # Of those above τ, a share of (1 − τ)/2 is wrong; they are 2·(1 − τ): (1 − τ)² is the risk.
    found = safe(mistaken(20_000))
    assert 0.8 <= found.point.value < 0.83
    assert found.on_all.disagreement <= 0.04


def test_too_few_images_show_nothing():
    assert isinstance(safe(mistaken(20)), Unreachable)


def test_a_broken_answer_counts_as_the_last_exits():
    drawn = mistaken(2000)
    drawn.log_probs[:, 0] = torch.nan
    assert safe(drawn).point == Threshold(0.0)
