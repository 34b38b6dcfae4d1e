import numpy as np
import pytest

from derta.statistics.bootstrap import Mean, mean_interval, paired_difference


def cells(values, attack="direct"):
    return {attack: {str(i): float(value) for i, value in enumerate(values)}}


def test_difference_of_two_checkpoints_is_after_minus_before():
    found = paired_difference(cells([1, 1, 1, 0]), cells([0, 1, 0, 0]))
    assert (found.before, found.after, found.difference) == (0.75, 0.25, -0.5)
    assert found.low <= -0.5 <= found.high
    assert (found.n, found.prompts, found.unpaired) == (4, 4, 0)


def test_interval_matches_the_normal_one_on_many_prompts():
    rng = np.random.default_rng(1)
    before, after = rng.random(800) < 0.6, rng.random(800) < 0.4
    found = paired_difference(cells(before), cells(after))
    moved = after.astype(float) - before.astype(float)
    half = 1.96 * moved.std() / len(moved) ** 0.5
    assert found.low == pytest.approx(moved.mean() - half, abs=0.004)
    assert found.high == pytest.approx(moved.mean() + half, abs=0.004)


def test_pairing_narrows_the_interval_where_checkpoints_agree():
    rng = np.random.default_rng(2)
    before = (rng.random(300) < 0.5).astype(float)
    after = before.copy()
    after[:15] = 1 - after[:15]  # 5% of the responses differ
    paired = paired_difference(cells(before), cells(after))
    alone = [mean_interval(list(side)) for side in (before, after)]
    independent = sum((side.high - side.low) ** 2 for side in alone) ** 0.5
    assert paired.high - paired.low < 0.5 * independent


def test_copies_of_an_attack_do_not_narrow_the_interval():
    rng = np.random.default_rng(3)
    one, two = (cells(rng.random(100) < share) for share in (0.7, 0.5))
    many = [{f"attack-{i}": cell for i in range(5)} for cell in (one["direct"], two["direct"])]
    single, copies = paired_difference(one, two), paired_difference(*many)
    assert copies.n == 500 and copies.prompts == 100
    assert (copies.low, copies.high) == pytest.approx((single.low, single.high))


def test_same_seed_same_interval_and_pieces_do_not_matter(monkeypatch):
    rng = np.random.default_rng(4)
    sides = [cells(rng.random(50)) for _ in range(2)]
    first = paired_difference(*sides, seed=7)
    assert paired_difference(*sides, seed=7) == first != paired_difference(*sides, seed=8)
    monkeypatch.setattr("derta.statistics.bootstrap._CHUNK", 1000)
    in_pieces = paired_difference(*sides, seed=7)
    assert (in_pieces.low, in_pieces.high) == pytest.approx((first.low, first.high))


def test_only_responses_that_both_have_count():
    before = {"direct": {"a": 1.0, "b": 1.0}, "code": {"a": 1.0}}
    after = {"direct": {"b": 0.0, "c": 0.0}, "cipher": {"a": 1.0}}
    found = paired_difference(before, after)
    assert (found.n, found.prompts, found.unpaired) == (1, 1, 4)
    assert found.difference == -1.0
    nothing = paired_difference({"direct": {"a": 1.0}}, {"direct": {"b": 1.0}})
    assert nothing.difference is None and nothing.low is None and nothing.unpaired == 2


def test_attacks_weigh_alike_and_a_rare_one_may_miss_a_resample():
    before = {"direct": {str(i): 1.0 for i in range(20)}, "rare": {"0": 0.0}}
    after = {"direct": {str(i): 0.0 for i in range(20)}, "rare": {"0": 1.0}}
    found = paired_difference(before, after)
    assert found.difference == pytest.approx((-1.0 + 1.0) / 2)
    assert (found.low, found.high) == (-1.0, 0.0)  # without the rare prompt, or with it


def test_mean_interval():
    assert mean_interval([]) == Mean(None, None, None, 0)
    values = [0.0, 0.25, 0.5, 1.0] * 50
    found = mean_interval(values)
    half = 1.96 * np.std(values) / len(values) ** 0.5
    assert found.mean == pytest.approx(0.4375)
    assert (found.low, found.high) == pytest.approx((0.4375 - half, 0.4375 + half), abs=0.005)
