from __future__ import annotations

import numpy as np
import pytest

from benchmarks.random_exits import even_shares


def test_even_shares_by_hand():
    assert even_shares((0.2, 0.6, 1.0), 0.6) == pytest.approx([1 / 3] * 3)
    low = even_shares((0.2, 0.6, 1.0), 0.4)
    assert np.dot(low, (0.2, 0.6, 1.0)) == pytest.approx(0.4)
    # Each is the same multiple of the one before.
    assert low[1] / low[0] == pytest.approx(low[2] / low[1])
