"""A policy's evaluation as a trial that an operating point is chosen from."""

from __future__ import annotations

import numpy as np

from ztw_rl.core.choice import Forced, Trial
from ztw_rl.rl.rows import adaptive
from ztw_rl.rl.tables import CostName, StoredRow, StoredTable, decision_costs


def trial_of(table: StoredTable, random_return: float | None, cost: CostName = "macs") -> Trial:
    """What ``ztw-rl eval`` measured: each early exit alone, then what its rule was set to.

    Args:
        table: With the full policy on the same games.
        random_return: What random play scores, if it is known.
        cost: What a decision's cost counts.
    """
    assert table.backbone is not None
    forced = _rising(table, "forced")[:-1]
    swept = _rising(table, table.rule)
    rows = [row for _, row in (*forced, *swept)]
    n = len(rows[0].returns)
    asked = [row.disagreement for _, row in swept]
    disagreement = None
    if all(each is not None for each in asked):
        # Nobody asks where an exit is forced.
        unknown = [(np.nan,) * n] * len(forced)
        disagreement = np.array([*unknown, *asked], float).T
    return Trial(
        points=(
            *(Forced(int(m)) for m, _ in forced),
            *(adaptive(table.rule, threshold) for threshold, _ in swept),
        ),
        scores=np.array([row.returns for row in rows], float),
        costs=decision_costs(rows, cost),
        full=np.array(table.backbone.returns, float),
        no_skill=random_return,
        unit="games",
        disagreement=disagreement,
    )


def _rising(table: StoredTable, rule: str) -> list[tuple[float, StoredRow]]:
    """Rows of one rule with their thresholds, rising."""
    rows = [(row.threshold, row) for row in table.rows if row.rule == rule]
    return sorted(((t, row) for t, row in rows if t is not None), key=lambda pair: pair[0])
