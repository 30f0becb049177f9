from __future__ import annotations

import torch

from ztw_rl.core.fingerprint import fingerprint

WEIGHTS = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([0.1])}


def test_storing_as_halves_changes_nothing():
    stored = {name: t.half().float() for name, t in WEIGHTS.items()}
    assert fingerprint(stored) == fingerprint(WEIGHTS)
    assert len(fingerprint(WEIGHTS)) == 16


def test_order_and_memory_format_change_nothing():
    strided = {"b": WEIGHTS["b"], "a": WEIGHTS["a"].t().contiguous().t()}
    assert fingerprint(strided) == fingerprint(WEIGHTS)


def test_values_names_and_shapes_count():
    others = [
        {**WEIGHTS, "b": torch.tensor([0.2])},
        {"a": WEIGHTS["a"], "c": WEIGHTS["b"]},
        {**WEIGHTS, "a": WEIGHTS["a"].flatten()},
        {"a": WEIGHTS["a"]},
        {**WEIGHTS, "b": torch.tensor([0])},
    ]
    assert len({fingerprint(w) for w in (WEIGHTS, *others)}) == 6
