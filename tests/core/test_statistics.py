from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ztw_rl.core.statistics import (
    few_distinct,
    interval,
    mean_ratio,
    paired_lead,
    permutation_p,
    summarize,
)


def test_by_hand():
    found = summarize([1, 2, 3, 4, 5, 6, 7, 100])
    assert found.mean == 16.0
    # The middle half is 3, 4, 5, 6.
    assert found.iqm == 4.5
    assert found.std == pytest.approx(np.sqrt(sum((x - 16) ** 2 for x in [*range(1, 8), 100]) / 8))


def test_the_interval_of_two_values_is_exact():
    # Two draws of {0, 1} give means 0, ½, 1 with chances ¼, ½, ¼.
    found = summarize([0, 1])
    assert (found.ci_low, found.mean, found.ci_high) == (0.0, 0.5, 1.0)


def test_the_interval_of_a_share_is_the_binomials():
    # 50 of 100: the bootstrap mean is Binomial(100, ½) / 100, whose central 95 % are 0.40 to 0.60.
    found = summarize([0] * 50 + [1] * 50)
    assert found.ci_low == pytest.approx(0.40, abs=0.0101)
    assert found.ci_high == pytest.approx(0.60, abs=0.0101)


def test_order_does_not_matter_for_the_numbers_and_the_seed_only_for_the_interval():
    values = np.random.default_rng(0).normal(size=30)
    first, other = summarize(values, seed=0), summarize(values, seed=1)
    assert first == summarize(values, seed=0)
    assert (first.mean, first.std, first.iqm) == (other.mean, other.std, other.iqm)
    assert first.ci_low != other.ci_low


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0, 3.0]])
def test_without_spread_the_interval_has_no_width(values):
    found = summarize(values)
    assert (found.mean, found.std, found.iqm, found.ci_low, found.ci_high) == (3, 0, 3, 3, 3)


@pytest.mark.parametrize(
    ("episodes", "distinct"),
    [("aaaaab", 2), ("aaabbc", 3), ("abcdaa", None), ("a", None)],
)
def test_episodes_that_hardly_differ(episodes, distinct):
    assert few_distinct(episodes) == distinct


def test_a_lead_in_one_game_is_the_mean():
    leads = np.array([[1.0, 2.0, 3.0, 10.0]])
    found, summary = paired_lead(leads), summarize(leads[0])
    assert (found.center, found.low, found.high) == (4.0, summary.ci_low, summary.ci_high)


def test_a_lead_over_games_is_the_mean_of_the_middle_half():
    # Sorted: -9, 1, 2, 3, 4, 5, 6, 50; the middle half is 2, 3, 4, 5.
    assert paired_lead(np.array([[4.0, 1, 50, 2], [-9, 3, 6, 5]])).center == 3.5


def test_seeds_are_resampled_within_each_game_and_not_together():
    """Leads that cancel seed by seed are no surer than others."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=20)
    together, apart = np.stack([noise, noise]), np.stack([noise, -noise])
    widths = [found.high - found.low for found in map(paired_lead, (together, apart))]
    assert widths[1] == pytest.approx(widths[0], rel=0.3)
    shuffled = paired_lead(np.stack([noise, rng.permutation(noise)]))
    same = paired_lead(together)
    assert (shuffled.low, shuffled.high) == pytest.approx((same.low, same.high), abs=0.05)


def test_the_interval_over_games_covers_the_middle_95_percent_of_all_resamples():
    """Two games of three seeds: all 27 x 27 resamples, each as likely, are known."""
    leads = np.array([[4.0, 1.0, 6.0], [11.0, 4.0, 10.0]])
    draws = list(product(range(3), repeat=3))
    found = []
    for first, second in product(draws, draws):
        pooled = sorted([*leads[0, list(first)], *leads[1, list(second)]])
        # A quarter of six is 1.5, which is cut to 1 at either end.
        found.append(np.mean(pooled[1:-1]))
    low, high = np.quantile(found, (0.025, 0.975), method="inverted_cdf")
    interval = paired_lead(leads)
    assert (interval.low, interval.high) == (low, high) == (3.25, 8.25)
    # Other quantiles would be other values.
    assert tuple(np.quantile(found, (0.005, 0.995), method="inverted_cdf")) == (2.5, 8.5)
    assert tuple(np.quantile(found, (0.05, 0.95), method="inverted_cdf")) == (3.75, 8.0)


def test_games_without_spread_leave_no_doubt():
    found = paired_lead(np.array([[1.0] * 5, [1.0] * 5]))
    assert (found.low, found.center, found.high) == (1.0, 1.0, 1.0)


def test_permutation_p_of_every_deal():
    """Of the 6 ways to deal 0, 0, 1, 1 into pairs, 2 keep equal values together."""
    assert permutation_p([(0, 0), (1, 1)]) == pytest.approx(1 / 3, abs=0.02)


def test_permutation_p_knows_chance_from_difference():
    rng = np.random.default_rng(0)
    same = [permutation_p(rng.normal(size=(3, 10)), seed=i) for i in range(40)]
    assert 0 < sum(p < 0.2 for p in same) < 20
    assert permutation_p([rng.normal(size=20), rng.normal(size=20) + 3]) < 0.001
    assert permutation_p([(2, 2), (2, 2)]) == 1


def test_the_mean_of_two_ratios():
    # 6/4 and 1/2; what each resample gives comes after.
    found = mean_ratio([("a", [5, 7], [4, 4]), ("b", [1, 1], [2, 2])])
    assert found[0] == 1.0
    assert set(np.unique(found[1:]).tolist()) == {(5 / 4 + 1 / 2) / 2, 1.0, (7 / 4 + 1 / 2) / 2}
    shown = interval(found)
    assert (shown.center, shown.low, shown.high) == (1.0, 0.875, 1.125)


def test_parts_of_one_table_are_resampled_together():
    # Game by game the two make up for one another.
    found = mean_ratio([("a", [0, 2], [1, 1]), ("a", [2, 0], [1, 1])])
    assert found.tolist() == [1.0] * len(found)
