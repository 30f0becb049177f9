from __future__ import annotations

import pytest

from ztw_rl.core.choice import Budget, Forced, Keep, Risk, Threshold
from ztw_rl.errors import UserError
from ztw_rl.points.targets import Proposal, Targets, flag


@pytest.mark.parametrize(
    ("wish", "target", "shown", "record"),
    [
        ({"budget": 0.6}, Budget(0.6), "--budget 0.6", {"budget": 0.6, "cost_counts": "macs"}),
        (
            {"keep": 0.95, "cost": "time"},
            Keep(0.95),
            "--keep 0.95",
            {"keep": 0.95, "cost_counts": "time"},
        ),
        (
            {"risk": 0.02, "confidence": 0.9},
            Risk(0.02, 0.9),
            "--risk 0.02",
            {"risk": 0.02, "confidence": 0.9},
        ),
    ],
)
def test_each_wish_is_one_target(wish, target, shown, record):
    asked = Targets(**wish)
    assert asked.target == target
    assert flag(target) == shown
    assert asked.record() == record


def test_a_threshold_is_no_target():
    assert Targets().target is None
    assert Targets(threshold=0.5).target is None
    assert [Targets(cost=c).cost_word for c in ("macs", "time")] == ["operations", "time"]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"keep": 0.9, "risk": 0.1}, "exclude one another; give one"),
        ({"threshold": -0.1}, "--threshold must be between 0 and 1"),
        ({"keep": 95}, "--keep must be above 0 and at most 10, not"),
        ({"risk": 1.0}, "--risk must be between 0 and 1, not 1"),
        ({"confidence": 0.0}, "--confidence must be between 0 and 1, not 0"),
    ],
)
def test_wishes_that_make_no_sense(wish, message):
    with pytest.raises(UserError, match=message):
        Targets(**wish)


def test_a_proposal_is_its_point():
    assert Proposal(Threshold(0.5)).each(2) == [0.5, 0.5]
    assert Proposal(Forced(1)).each(2) == [2.0, -1.0]
    assert str(Proposal(Forced(1))) == "exit 1 alone"
