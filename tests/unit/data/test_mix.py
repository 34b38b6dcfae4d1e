"""Counts, order and hold-out: seeded, nested, and never one prompt on both sides."""

import pytest

from derta.data.convert import Kept
from derta.data.mix import give_unique_ids, select, shuffle_and_split
from derta.errors import InputError
from derta.storage.places import Place


def kept(number, prompt=None, own=True):
    row = {"id": f"row-{number}", "source": "s", "kind": "helpful", "prompt": [], "chosen": [], "rejected": None}
    return Kept(row, Place("file", number), f"prompt-{number if prompt is None else prompt}", own)


def names(rows):
    return [one.row["id"] for one in rows]


ROWS = [kept(number) for number in range(200)]


def test_a_smaller_sample_lies_inside_a_larger_one():
    small, large = names(select(ROWS, 30, "sample", 1)), names(select(ROWS, 60, "sample", 1))
    assert len(small) == 30 and set(small) < set(large)
    assert names(select(ROWS, 30, "sample", 2)) != small
    assert names(select(ROWS, 3, "first", 1)) == ["row-0", "row-1", "row-2"]
    assert select(ROWS, None, "sample", 1) == ROWS
    assert set(names(select(ROWS[::-1], 30, "sample", 1))) == set(small), "whatever the order of the input"


def test_shuffle_is_seeded_and_loses_nothing():
    train, holdout = shuffle_and_split(ROWS, 0, seed=1)
    order = [row["id"] for row in train]
    assert holdout == [] and sorted(order) == sorted(names(ROWS)) and order != names(ROWS)
    assert order == [row["id"] for row in shuffle_and_split(ROWS[::-1], 0, seed=1)[0]]
    assert order != [row["id"] for row in shuffle_and_split(ROWS, 0, seed=2)[0]]
    train, holdout = shuffle_and_split(ROWS, 20, seed=1, shuffle=False)
    held = {row["id"] for row in holdout}
    assert [row["id"] for row in train] == [name for name in names(ROWS) if name not in held]


@pytest.mark.parametrize(("holdout", "rows"), [(0.1, 20), (0.004, 1), (37, 37)])
def test_holdout_by_fraction_and_by_number(holdout, rows):
    train, held = shuffle_and_split(ROWS, holdout, seed=1)
    assert (len(train), len(held)) == (200 - rows, rows)


def test_no_prompt_on_both_sides():
    rows = [kept(number, prompt=number // 3) for number in range(90)]
    train, held = shuffle_and_split(rows, 20, seed=1)
    prompt_of = {one.row["id"]: one.prompt_digest for one in rows}
    sides = [{prompt_of[row["id"]] for row in side} for side in (train, held)]
    assert not sides[0] & sides[1]
    assert len(held) == 18  # 20 is not a multiple of the 3 rows of a prompt


@pytest.mark.parametrize("holdout", [200, 300, 0.001])
def test_holdout_that_leaves_one_side_empty(holdout):
    message = r"holdout: .* of 200 rows is \d+, which leaves one side empty; fix: choose another"
    with pytest.raises(InputError, match=message):
        shuffle_and_split(ROWS, holdout, seed=1)


def test_equal_rows_get_numbered_ids():
    rows = give_unique_ids([kept(1, own=False), kept(1, own=False), kept(2, own=False), kept(1, own=False)], {})
    assert names(rows) == ["row-1", "row-1-2", "row-2", "row-1-3"]
