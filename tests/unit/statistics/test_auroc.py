"""Areas and false positives, with the arithmetic written out."""

import random

import numpy as np
import pytest

from derta.statistics.auroc import Auroc, clustered_auroc, false_positives_at_recall, false_positives_by_depth


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


def auroc(positives, negatives) -> float | None:
    return clustered_auroc([[score] for score in positives], [[score] for score in negatives]).auroc


def test_auroc_equals_counting_pairs_with_ties_as_half():
    rng = random.Random(1)
    positives = [rng.randrange(6) / 5 for _ in range(40)]
    negatives = [rng.randrange(5) / 5 for _ in range(30)]
    pairs = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    assert auroc(positives, negatives) == pytest.approx(pairs / (40 * 30), abs=1e-12)
    assert auroc([], negatives) is None


def test_interval_of_an_auroc_counts_rows_and_agrees_with_their_bootstrap():
    rng = np.random.default_rng(4)
    positives = [rng.normal(1.2 + rng.normal(), 0.4, 1 + i) for i in range(30)]
    negatives = [rng.normal(rng.normal(), 0.4, 40) for _ in range(40)]
    found = clustered_auroc(positives, negatives)
    assert found.auroc == pytest.approx(auroc(np.concatenate(positives), np.concatenate(negatives)), abs=1e-12)
    drawn = [
        auroc(*(np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))]) for rows in sides))
        for sides in [(positives, negatives)] * 1000
    ]
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(np.std(drawn), rel=0.08)
    independent = clustered_auroc([[p] for row in positives for p in row], [[p] for row in negatives for p in row])
    assert independent.high - independent.low < (found.high - found.low) / 2
    assert clustered_auroc([[], [1.0]], [[]]) == Auroc(None, None, None, 1, 0)


def test_all_told_apart_is_an_area_of_1():
    found = clustered_auroc([[0.9, 0.8], [0.7]], [[0.1], [0.2]])
    assert found.auroc == found.high == 1.0
    assert clustered_auroc([[0.1]] * 12, [[0.2]] * 10).low == 0.0
