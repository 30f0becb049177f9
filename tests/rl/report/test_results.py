from __future__ import annotations

import pytest

from ztw_rl.rl.report.results import Method


@pytest.mark.parametrize(
    ("method", "label"),
    [
        (Method("ztw"), "ztw"),
        (Method("ztw", patient=True), "ztw, patience"),
        (Method("ztw", exits=("input", "conv1"), sampled=True), "ztw, exits input conv1, sampled"),
        (Method("ztw", variant="low-rate"), "ztw, low-rate"),
        (Method("ztw", control="one exit"), "ztw, one exit"),
        (Method("ztw", settings=("0.1", "0.3")), "ztw, at 0.1 0.3"),
    ],
)
def test_labels(method, label):
    assert str(method) == label
    assert bool(method.qualifiers) == (", " in label)


def test_plain_methods_come_first_and_the_papers_own_before_all():
    mixed = [
        Method("student"),
        Method("ztw", sampled=True),
        Method("other"),
        Method("sdn"),
        Method("ztw"),
        Method("sdn", sampled=True),
    ]
    ordered = sorted(mixed, key=lambda method: method.rank)
    assert list(map(str, ordered)) == [
        "ztw",
        "sdn",
        "student",
        "other",
        "ztw, sampled",
        "sdn, sampled",
    ]
