"""The threshold for a stated rate of false alarms, by hand."""

import numpy as np
import pytest

from derta.errors import InputError
from derta.statistics.stopping import WHOLE, caught, held, stopped, stopped_behind, stopped_by_depth, threshold_for


def test_a_response_is_stopped_where_the_score_stays_high_for_long_enough():
    curve = [0.1, 0.9, 0.2, 0.5, 0.6, 0.4]
    assert held(curve, 1).tolist() == [0.1, 0.9, 0.9, 0.9, 0.9, 0.9]
    assert held(curve, 2).tolist() == [-np.inf, 0.1, 0.2, 0.2, 0.5, 0.5]
    assert held(curve, 3).tolist() == [-np.inf, -np.inf, 0.1, 0.2, 0.2, 0.4]
    assert held([0.9], 2).tolist() == [-np.inf] and held([], 1).tolist() == []


def test_the_threshold_is_the_order_statistic_that_keeps_the_promise():
    """Of 300 responses at 1% the 298th: ceil(301 * 0.99) = 298, so two stand above it; of 299 the 297th."""
    scores = [i / 1000 for i in range(300)]
    for count, place in ((300, 298), (299, 297), (199, 198), (99, 99)):
        some = [[0.0, score, 0.0] for score in reversed(scores[:count])]
        assert threshold_for(some, 0.01) == scores[place - 1]
        assert stopped(some, scores[place - 1]).count == count - place
    assert threshold_for([[0.3], [0.1], [0.2]], 0.25) == 0.3


def test_ties_never_raise_the_rate():
    curves = [[0.9]] * 50 + [[0.1]] * 250
    threshold = threshold_for(curves, 0.01)
    assert threshold == 0.9 and stopped(curves, threshold).count == 0


def test_too_few_benign_responses_are_refused_with_the_number_that_is_needed():
    with pytest.raises(InputError, match="98 benign responses are too few .* of 0.01: give at least 99"):
        threshold_for([[0.5]] * 98, 0.01)
    with pytest.raises(InputError, match="at least 19"):
        threshold_for([[0.5]] * 18, 0.05)


def test_what_is_caught_by_each_depth_counts_all_responses():
    curves = [[0.9], [0.1, 0.1, 0.9, 0.1], [0.1] * 30 + [0.9], [0.1]]
    found = stopped_by_depth(curves, 0.5)
    assert {depth: rate.count for depth, rate in found.items()} == {
        "0": 1, "5": 2, "10": 2, "20": 2, "40": 3, "80": 3, "160": 3, WHOLE: 3
    }  # fmt: skip
    assert all(rate.n == 4 for rate in found.values())


def test_behind_what_an_attack_has_written_only_the_rest_is_watched():
    curves = [[0.9, 0.1], [0.1, 0.1, 0.9, 0.1, 0.1, 0.9, 0.1, 0.1], [0.1] * 30 + [0.9], [0.1]]
    found = {depth: (rate.count, rate.n) for depth, rate in stopped_behind(curves, 0.5).items()}
    assert found == {"0": (3, 4), "5": (2, 2), "10": (1, 1), "20": (1, 1), "40": (0, 0), "80": (0, 0), "160": (0, 0)}
    assert caught(curves, 0.5) == pytest.approx((0.75 + 1 + 1 + 1) / 4)
    assert caught(curves, 0.5, consecutive=2) == caught([], 0.5) == 0
