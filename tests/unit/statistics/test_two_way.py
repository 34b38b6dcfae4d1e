"""Intervals over seeds x prompts, with the arithmetic written out."""

import math

import numpy as np
import pytest

from derta.statistics.rates import wilson
from derta.statistics.two_way import rate_interval, t_quantile, two_way_interval


@pytest.mark.parametrize(
    ("degrees", "published"),
    [(1, 12.7062), (2, 4.3027), (4, 2.7764), (10, 2.2281), (30, 2.0423), (1e7, 1.9600)],
)
def test_t_quantiles_are_those_of_the_tables(degrees, published):
    assert t_quantile(degrees) == pytest.approx(published, abs=2e-4)


def test_two_seeds_three_prompts_by_hand():
    found = two_way_interval([[1, 2, 3], [2, 3, 7]])
    # Seed means 2 and 4: variance 2, MS 3 x 2 = 6, 1 degree. Prompt means 1.5, 2.5, 5: variance 3.25,
    # MS 2 x 3.25 = 6.5, 2 degrees. Rest 0.5, 0.5, -1 and its opposite: sum of squares 3, MS 3 / 2 = 1.5, 2 degrees.
    variance = (6 + 6.5 - 1.5) / 6
    degrees = 11**2 / (6**2 / 1 + 6.5**2 / 2 + 1.5**2 / 2)
    half = t_quantile(degrees) * math.sqrt(variance)
    assert (found.mean, found.sd, found.seeds, found.prompts) == (3, pytest.approx(math.sqrt(2)), 2, 3)
    assert (found.low, found.high) == (pytest.approx(3 - half), pytest.approx(3 + half))


def test_one_seed_has_an_interval_over_prompts_and_one_prompt_one_over_seeds():
    half = t_quantile(2) * math.sqrt(1 / 3)  # values 1, 2, 3: variance 1
    for values in ([[1, 2, 3]], [[1], [2], [3]]):
        found = two_way_interval(values)
        assert (found.low, found.high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert two_way_interval([[1, 2, 3]]).sd is None
    assert two_way_interval([[1]]).low is None


def test_seeds_that_agree_leave_the_spread_of_prompts():
    """Five copies of a seed are no more than one seed: the interval is that of one."""
    one = np.array([[0, 1, 1, 0, 1, 1, 1, 0]])
    alone, five = two_way_interval(one), two_way_interval(np.repeat(one, 5, axis=0))
    assert five.mean == alone.mean
    assert five.high - five.low == pytest.approx(alone.high - alone.low, rel=0.01)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    """Normal seeds, prompts and rest; a bootstrap over the 5 x 40 values would cover it in about half of the cases."""
    rng = np.random.default_rng(0)
    tables = 0.3 * rng.normal(size=(400, 5, 1)) + 0.3 * rng.normal(size=(400, 1, 40)) + rng.normal(size=(400, 5, 40))
    found = [two_way_interval(table) for table in tables]
    assert 0.92 <= np.mean([interval.low <= 0 <= interval.high for interval in found]) <= 0.985


def test_rates_stay_between_0_and_1_and_all_alike_is_not_certainty():
    none = rate_interval(np.zeros((3, 50)))
    assert (none.low, none.high) == wilson(0.0, 50)
    assert rate_interval([[0, 0, 1], [0, 0, 0]]).low == 0.0


@pytest.mark.parametrize("values", [[], [1, 2], [[]]])
def test_no_table_no_interval(values):
    with pytest.raises(ValueError, match="expected values"):
        two_way_interval(values)
