"""Intervals are the published ones, and end exactly where a rate does."""

import pytest

from derta.statistics.rates import Rate, rate, wilson
from derta.statistics.two_way import rate_interval


def test_wilson_interval_matches_published_values():
    # Newcombe 1998, Table I, score method without continuity correction.
    published = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611)}
    for (count, n), interval in (published | {(1, 29): (0.0061, 0.1718)}).items():
        assert wilson(count / n, n) == pytest.approx(interval, abs=1e-4)
    for count, n in ((1, 0), (3, 2), (-1, 5)):
        with pytest.raises(ValueError, match="no interval"):
            rate(count, n)
    assert rate(0, 0) == Rate(0, 0, None, None, None)


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


@pytest.mark.parametrize("attacks", range(1, 13))
def test_all_agree_over_seeds_whatever_the_rounding_of_their_weights(attacks):
    """A mean over attacks is a sum of weights: six times 1/6 is 1 - 1e-16, which is no rate with an interval of 0."""
    found = rate_interval([[sum([1 / attacks] * attacks)] * 20] * 3)
    assert (found.mean, found.low, found.high) == (1.0, *wilson(1.0, 20))
