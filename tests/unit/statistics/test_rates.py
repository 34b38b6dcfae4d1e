"""Intervals end exactly where a rate does."""

from __future__ import annotations

import pytest

from derta.statistics.auroc import clustered_auroc
from derta.statistics.rates import rate, wilson
from derta.statistics.two_way import rate_interval


@pytest.mark.parametrize("n", [*range(1, 400), 1319, 10_000, 123_457])
def test_none_of_n_begins_at_0_and_all_of_n_end_at_1(n):
    none, every = rate(0, n), rate(n, n)
    assert (none.low, every.high) == (0.0, 1.0)
    assert none.high == pytest.approx(1 - every.low) and 0 < none.high < 1


@pytest.mark.parametrize("n", [1, 7, 12, 60, 333, 1e-3, 59.99, 12.34567, 1e9])
@pytest.mark.parametrize("share", [0.0, 1e-12, 1 / 3, 0.5, 1 - 1e-12, 1.0])
def test_an_interval_holds_its_share(share, n):
    low, high = wilson(share, n)
    assert 0.0 <= low <= share <= high <= 1.0


def test_all_told_apart_is_an_area_of_1():
    found = clustered_auroc([[0.9, 0.8], [0.7]], [[0.1], [0.2]])
    assert found.auroc == found.high == 1.0
    assert clustered_auroc([[0.1]] * 12, [[0.2]] * 10).low == 0.0


@pytest.mark.parametrize("attacks", range(1, 13))
def test_all_agree_over_seeds_whatever_the_rounding_of_their_weights(attacks):
    """A mean over attacks is a sum of weights: six times 1/6 is 1 - 1e-16, which is no rate with an interval of 0."""
    found = rate_interval([[sum([1 / attacks] * attacks)] * 20] * 3)
    assert (found.mean, found.low, found.high) == (1.0, *wilson(1.0, 20))
