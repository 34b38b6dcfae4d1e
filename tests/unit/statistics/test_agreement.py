import itertools

import pytest

from derta.statistics.agreement import agreement


def test_kappa_with_the_arithmetic_written_out():
    judged = [True] * 20 + [True] * 5 + [False] * 10 + [False] * 15
    labels = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    found = agreement(judged, labels)
    # 50 responses, 35 agree: p_o = .7. The judge says yes 25 times, the labels 30: p_e = .5 * .6 + .5 * .4 = .5.
    assert found.agreement.rate == pytest.approx(0.7)
    assert found.kappa == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert [getattr(found, key) for key in ("both", "judge_only", "label_only", "neither")] == [20, 5, 10, 15]


def test_kappa_against_the_definition_on_all_small_tables():
    for counts in itertools.product(range(4), repeat=4):
        both, judge_only, label_only, neither = counts
        judged = [True] * (both + judge_only) + [False] * (label_only + neither)
        labels = [True] * both + [False] * judge_only + [True] * label_only + [False] * neither
        kappa, n = agreement(judged, labels).kappa, len(judged)
        if n == 0 or (len(set(judged)) == 1 and judged == labels):
            assert kappa is None
            continue
        chance = sum((judged.count(word) / n) * (labels.count(word) / n) for word in (True, False))
        observed = sum(a == b for a, b in zip(judged, labels, strict=True)) / n
        assert kappa == pytest.approx((observed - chance) / (1 - chance))


def test_unscored_and_unlabelled_take_no_part_and_are_counted():
    judged = [True, None, None, False, True]
    labels = [True, True, None, None, False]
    found = agreement(judged, labels)
    assert (found.agreement.n, found.unscored, found.unlabelled) == (2, 1, 2)
    # An unscored response taken for a "no" would add a disagreement.
    assert found.agreement.rate == 0.5 and found.label_only == 0


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError):
        agreement([True], [])
