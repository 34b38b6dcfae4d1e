"""False positives at a given recall, with the arithmetic written out."""

import pytest

from derta.statistics.recall import false_positives_at_recall, false_positives_by_depth


def test_false_positives_at_recall_with_the_arithmetic_written_out():
    positives = [i / 20 for i in range(1, 21)]  # .05 ... 1.0; 95% of 20 is 19: the threshold is the 19th highest, .1
    found = false_positives_at_recall(positives, [0.0, 0.05, 0.1, 0.5])
    assert found.threshold == pytest.approx(0.1) and found.recall == pytest.approx(0.95)
    assert (found.count, found.n, found.n_positives) == (2, 4, 20)


def test_false_positives_at_recall_on_the_edges():
    separated = false_positives_at_recall([0.9, 0.8], [0.1, 0.2])
    assert separated.rate == 0.0 and separated.recall == 1.0
    same = false_positives_at_recall([0.5] * 10, [0.5] * 4)  # nothing tells them apart: all or none
    assert same.rate == 1.0 and same.recall == 1.0
    assert false_positives_at_recall([], [0.5]).rate is None
    assert false_positives_at_recall([0.5], []).threshold is None


def test_false_positives_by_depth_take_each_row_once_where_it_is_long_enough():
    harmful = [[0.2] * 5 + [0.9] * 6, [0.3] * 5 + [0.8] * 2]
    benign = [[0.25] * 11, [0.1] * 3]
    found = false_positives_by_depth(harmful, benign)
    assert (found["0"].n_positives, found["0"].n, found["0"].count) == (2, 2, 1)  # threshold .2: .25 passes it
    assert (found["5"].n_positives, found["5"].n, found["5"].count) == (2, 1, 0)
    assert (found["10"].n_positives, found["10"].n) == (1, 1)
