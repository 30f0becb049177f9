from __future__ import annotations

import numpy as np
import pytest

from ztw_rl.core.per_exit import per_exit_thresholds

CANDIDATES = (0.25, 0.5, 0.75, 1.0)


@pytest.fixture
def drawn():
    """Exit 0 is right whenever it is surer than 0.5; exit 1 never is, however sure."""
    confidences = np.random.default_rng(0).random((2000, 3))
    right = [confidences[:, 0] > 0.5, np.zeros(2000, bool), np.ones(2000, bool)]
    return confidences, np.stack(right, axis=1)


def test_thresholds_per_exit_beat_a_common_one(drawn):
    chosen = per_exit_thresholds(*drawn, (0.2, 0.5, 1.0), (0.75, 0.75), CANDIDATES, 0.7)
    assert chosen == (0.5, 1.0)


def test_it_is_no_less_accurate_than_where_it_starts(drawn):
    """Nothing that is tried is affordable."""
    assert per_exit_thresholds(*drawn, (0.2, 0.5, 1.0), (-1.0, 2.0), (2.0,), 0.2) == (-1.0, 2.0)
