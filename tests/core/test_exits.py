from __future__ import annotations

import pytest
import torch

from ztw_rl.core.exits import Exceeds, Patience, last, most_confident, select


def log_probs(confidences: list[list[float]], labels: list[list[int]] | None = None):
    """(B, E, 2) answers with the given highest probability (≥ 0.5) and label."""
    p = torch.tensor(confidences)
    answers = torch.stack([p, 1 - p], dim=-1)
    if labels is not None:
        flipped = torch.tensor(labels).bool().unsqueeze(-1)
        answers = torch.where(flipped, answers.flip(-1), answers)
    return answers.log()


ANSWERS = log_probs(
    [
        [0.95, 0.60, 0.60],
        [0.60, 0.95, 0.60],
        [0.60, 0.70, 0.65],
        [0.80, 0.60, 0.90],
    ]
)


@pytest.mark.parametrize(
    ("threshold", "left_at"),
    [
        (0.0, [0, 0, 0, 0]),
        (0.75, [0, 1, 2, 0]),
        (0.9, [0, 1, 2, 2]),
        (1.0, [2, 2, 2, 2]),
        (1.5, [2, 2, 2, 2]),
    ],
)
def test_confidence(threshold, left_at):
    left, answered = select(ANSWERS, Exceeds.uniform(threshold, 3))
    assert left.tolist() == left_at
    assert answered.tolist() == left_at


def test_the_threshold_must_be_exceeded():
    answers = log_probs([[0.5, 0.5]])
    assert answers[0, 0, 0].exp() == 0.5
    assert select(answers, Exceeds.uniform(0.5, 2))[0].tolist() == [1]
    assert select(answers, Exceeds.uniform(0.4999, 2))[0].tolist() == [0]


def test_thresholds_per_exit_and_per_sample():
    per_exit = Exceeds(torch.tensor([1.0, 0.5]))
    assert select(ANSWERS, per_exit)[0].tolist() == [1, 1, 1, 1]
    per_sample = Exceeds(torch.tensor([[1.0, 1.0], [0.5, 1.0], [1.0, 0.5], [0.9, 0.9]]))
    assert select(ANSWERS, per_sample)[0].tolist() == [2, 0, 1, 2]
    assert select(ANSWERS[1:3], per_sample.rows(torch.tensor([1, 2])))[0].tolist() == [0, 1]
    assert per_exit.rows(torch.tensor([0])) is per_exit


def test_forced_exits_whatever_they_say():
    rule = Exceeds.forced(torch.tensor([2, 0, 1, 0]), 3)
    assert select(ANSWERS, rule)[0].tolist() == [2, 0, 1, 0]


LABELS = [
    [0, 0, 0, 0],
    [0, 1, 1, 1],
    [0, 1, 0, 0],
    [1, 0, 1, 0],
]


@pytest.mark.parametrize(
    ("patience", "left_at"),
    [
        (1, [0, 0, 0, 0]),
        (2, [1, 2, 3, 3]),
        (3, [2, 3, 3, 3]),
        (9, [3, 3, 3, 3]),
    ],
)
def test_patience(patience, left_at):
    answers = log_probs([[0.9] * 4] * 4, LABELS)
    assert select(answers, Patience(torch.tensor(patience)))[0].tolist() == left_at


def test_patience_per_sample():
    answers = log_probs([[0.9] * 4] * 4, LABELS)
    rule = Patience(torch.tensor([3, 2, 1, 1]))
    assert select(answers, rule)[0].tolist() == [2, 2, 0, 0]
    assert rule.rows(torch.tensor([False, True, False, True])).patience.tolist() == [2, 1]
    assert rule.rows(torch.tensor([1, 0])).patience.tolist() == [2, 3]


def test_fallbacks():
    assert last(ANSWERS).tolist() == [2, 2, 2, 2]
    assert most_confident(ANSWERS).tolist() == [0, 1, 1, 2]
    left, answered = select(ANSWERS, Exceeds.uniform(0.93, 3), most_confident)
    assert left.tolist() == [0, 1, 2, 2]
    assert answered.tolist() == [0, 1, 1, 2]


def test_nan_never_leaves_early_and_is_no_confidence():
    answers = ANSWERS.clone()
    answers[0, 0] = float("nan")
    answers[3, :2] = float("nan")
    for rule in (
        Exceeds.uniform(0.0, 3),
        Exceeds(torch.full((2,), -torch.inf)),
        Patience(torch.tensor(1)),
    ):
        assert select(answers, rule)[0].tolist() == [1, 0, 0, 2]
    assert most_confident(answers).tolist() == [1, 1, 1, 2]


def test_the_backbone_alone():
    answers = ANSWERS[:, 2:]
    for rule in (Exceeds.uniform(0.0, 1), Patience(torch.tensor(1))):
        assert select(answers, rule)[0].tolist() == [0, 0, 0, 0]
