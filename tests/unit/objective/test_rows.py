"""The drawings of derta/objective/rows.py as literal lists, and what happens to them at max_length."""

import numpy as np
import pytest

from derta.config import ObjectiveConfig
from derta.objective.draws import prefix_length
from derta.objective.refusal_token import RefusalToken
from derta.objective.rows import (
    RowBuilder,
    RowSettings,
    TokenizedExample,
    View,
    first_tokens,
    longest_prefix,
    mle_row,
    rto_positions,
    rto_row,
    unlearning_row,
)

S, _S, E, X = 90, 91, 99, -100  # refusal token (start, continued), end of turn, ignored
REFUSAL = RefusalToken("Sorry", S, _S, "Sorry", " Sorry")


def example(**changes) -> TokenizedExample:
    """p = 1 2 3; h = 11 12 13 14; s = 21 22 at the start, 31 22 after text."""
    return {
        "id": "a",
        "prompt_ids": [1, 2, 3],
        "chosen_ids": [21, 22, E],
        "chosen_continued_ids": [31, 22, E],
        "rejected_ids": [11, 12, 13, 14, E],
        "rto_first_id": S,
        **changes,
    }


def builder_of(max_length: int, **objective) -> RowBuilder:
    objective = ObjectiveConfig(**{"zero_prefix_fraction": 0.0, **objective})
    return RowBuilder(refusal=REFUSAL, settings=RowSettings(objective=objective, max_length=max_length, seed=5))


def test_mle_row():
    """Without prefix the vanilla row. The prefix is context only, and behind it the safe response takes its continued
    form; the end token of a whole harmful response is left out: the row goes on."""
    assert mle_row(example(), k=0, max_length=100) == {
        "input_ids": [1, 2, 3, 21, 22, E],
        "labels": [X, X, X, 21, 22, E],
        "objective": [0, 0, 0, 1, 1, 1],
    }
    assert mle_row(example(), k=2, max_length=100) == {
        "input_ids": [1, 2, 3, 11, 12, 31, 22, E],
        "labels": [X, X, X, X, X, 31, 22, E],
        "objective": [0, 0, 0, 0, 0, 1, 1, 1],
    }
    assert mle_row(example(), k=4, max_length=100)["input_ids"] == [1, 2, 3, 11, 12, 13, 14, 31, 22, E]


@pytest.mark.parametrize(
    ("kept", "labels", "objective"),
    [
        ([1, 1, 1, 1, 1], [S, _S, _S, _S, _S], [2, 2, 2, 2, 2]),
        ([1, 1, 1, 1], [S, _S, _S, _S, X], [2, 2, 2, 2, 0]),  # without the end slot: the paper's sum ends before it
        ([0, 1, 0, 0, 1], [X, _S, X, X, _S], [0, 2, 0, 0, 2]),  # dropped positions lose their loss, not their token
    ],
)
def test_rto_row(kept, labels, objective):
    assert rto_row(example(), REFUSAL, np.array(kept, dtype=bool), max_length=100) == {
        "input_ids": [1, 2, 3, 11, 12, 13, 14, E],
        "labels": [X, X, X, *labels],
        "objective": [0, 0, 0, *objective],
    }


def test_unlearning_row():
    """The harmful response is its own label, with or without its end token, and loses its end at max_length."""
    row = unlearning_row(example(), max_length=100, at_end=True)
    assert row["input_ids"] == [1, 2, 3, 11, 12, 13, 14, E]
    assert row["labels"] == [X, X, X, 11, 12, 13, 14, E] and row["objective"] == [0, 0, 0, 2, 2, 2, 2, 2]
    row = unlearning_row(example(), max_length=100, at_end=False)
    assert row["labels"] == [X, X, X, 11, 12, 13, 14, X] and row["objective"] == [0, 0, 0, 2, 2, 2, 2, 0]
    assert unlearning_row(example(), max_length=5, at_end=True)["labels"] == [X, X, X, 11, 12]


def test_truncation_takes_the_end_of_the_response():
    """max_length 5 = 3 of prompt and 2 of response: the end token is lost, and its slot in the RTO row with it."""
    assert mle_row(example(), k=0, max_length=5)["labels"] == [X, X, X, 21, 22]
    row = rto_row(example(), REFUSAL, np.ones(2, dtype=bool), max_length=5)
    assert (row["input_ids"], row["labels"]) == ([1, 2, 3, 11, 12], [X, X, X, S, _S])


def test_prefix_leaves_room_for_the_whole_safe_response():
    """longest_prefix(prompt, safe, harmful, max_length), numbers with end tokens."""
    assert longest_prefix(3, 3, 5, 100) == 4  # all of h1..h4
    assert longest_prefix(3, 3, 5, 10) == 4  # 3 + 4 + 3 = 10 just fits
    assert longest_prefix(3, 3, 5, 8) == 2  # 3 + 2 + 3 = 8
    assert longest_prefix(3, 3, 5, 6) == 0
    assert longest_prefix(3, 3, 5, 4) == 0  # never negative
    assert longest_prefix(3, 3, 1, 100) == 0  # a harmful response of nothing but its end


def test_rto_positions():
    assert rto_positions(3, 5, 100, at_end=True) == 5
    assert rto_positions(3, 5, 100, at_end=False) == 4
    assert rto_positions(3, 5, 6, at_end=True) == 3
    assert rto_positions(3, 5, 3, at_end=True) == 0
    assert rto_positions(3, 5, 2, at_end=True) == 0


@pytest.mark.parametrize(
    ("view", "max_length", "longest"),
    [(View.MLE_WITH_PREFIX, 8, 2), (View.MLE_WITH_PREFIX, 100, 4), (View.TRANSITION, 6, 2), (View.TRANSITION, 100, 4)],
)
def test_builder_draws_k_from_its_range(view, max_length, longest):
    """What leaves room for the safe response (3 + k + 3 tokens), or for the one that is left of it in a transition row
    (3 + k + 1), to which zero_prefix_fraction does not apply."""
    is_turn = view == View.TRANSITION
    builder = builder_of(max_length, zero_prefix_fraction=float(is_turn), transition_tokens=1)
    shown, seen = first_tokens(example(), 1) if is_turn else example(), set()
    for epoch in range(60):
        row = builder.build(example(), view, copy=3, epoch=epoch)
        k = prefix_length(longest, seed=5, epoch=epoch, example_id="a", copy=3)
        assert row == mle_row(shown, k, max_length)
        assert is_turn or row["labels"][-1] == E  # a prefix never costs the safe response its end
        seen.add(k)
    assert seen == set(range(longest + 1))


def test_without_redraw_every_epoch_has_the_draws_of_the_first():
    drawn, kept = builder_of(100, rto_dropout=0.5), builder_of(100, rto_dropout=0.5, redraw=False)
    for view in (View.MLE_WITH_PREFIX, View.RTO, View.TRANSITION):
        first = drawn.build(example(), view, 0, 0)
        assert all(kept.build(example(), view, 0, epoch) == first for epoch in range(20))
        assert any(drawn.build(example(), view, 0, epoch) != first for epoch in range(20))


def test_builder_gives_a_plain_mle_row_no_prefix():
    builder = builder_of(100)
    assert all(builder.build(example(), View.MLE, 0, epoch) == mle_row(example(), 0, 100) for epoch in range(20))


@pytest.mark.parametrize("at_end", [True, False])
def test_builder_never_leaves_an_rto_row_without_loss(at_end):
    builder = builder_of(100, rto_dropout=0.95, rto_at_end=at_end)
    rows = [builder.build(example(), View.RTO, 0, epoch) for epoch in range(200)]
    kept = [sum(label != X for label in row["labels"]) for row in rows]
    assert min(kept) == 1
    for row in rows:
        assert all((label == X) == (kind == 0) for label, kind in zip(row["labels"], row["objective"], strict=True))
        assert at_end or row["labels"][-1] == X


def test_transition_row_holds_the_turn_alone():
    """m = 1: one token of safe response behind the prefix, no end of turn."""
    assert mle_row(first_tokens(example(), 1), k=2, max_length=100) == {
        "input_ids": [1, 2, 3, 11, 12, 31],
        "labels": [X, X, X, X, X, 31],
        "objective": [0, 0, 0, 0, 0, 1],
    }
    assert mle_row(first_tokens(example(), 1), k=0, max_length=100)["labels"] == [X, X, X, 21]
    assert first_tokens(example(), 3) == example()  # a response no longer than m is whole, its end included
