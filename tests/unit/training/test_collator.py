"""Batches as literal lists: rows of this epoch, padded or flattened, with the objective beside the labels."""

from typing import Any

import pytest

from derta.config import ObjectiveConfig
from derta.objective.loss import count_objectives
from derta.objective.refusal_token import RefusalToken
from derta.objective.rows import RowBuilder, RowSettings, View
from derta.training.collator import DeRTaCollator, epoch_clock

PAD, S, _S, E, X = 0, 90, 91, 99, -100


def entry(view: View, prompt: list[int]) -> dict[str, Any]:
    return {
        "id": "a",
        "prompt_ids": prompt,
        "chosen_ids": [21, 22, E],
        "chosen_continued_ids": [31, 22, E],
        "rejected_ids": [11, E],
        "rto_first_id": S,
        "view": int(view),
        "copy": 0,
    }


@pytest.fixture
def collate():
    def make(padding_free: bool) -> DeRTaCollator:
        settings = RowSettings(objective=ObjectiveConfig(zero_prefix_fraction=0.0), max_length=50, seed=1)
        builder = RowBuilder(refusal=RefusalToken("Sorry", S, _S, "Sorry", " Sorry"), settings=settings)
        return DeRTaCollator(pad_token_id=PAD, padding_free=padding_free, builder=builder, epoch=epoch_clock())

    return make


def test_padded_and_flattened(collate):
    rows = [entry(View.MLE, [1, 2]), entry(View.RTO, [1])]
    batch = collate(padding_free=False)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 21, 22, E], [1, 11, E, PAD, PAD]]
    assert batch["labels"].tolist() == [[X, X, 21, 22, E], [X, S, _S, X, X]]
    assert batch["objective"].tolist() == [[0, 0, 1, 1, 1], [0, 2, 2, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    batch = collate(padding_free=True)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 21, 22, E, 1, 11, E]]
    assert batch["labels"].tolist() == [[X, X, 21, 22, E, X, S, _S]]
    assert batch["objective"].tolist() == [[0, 0, 1, 1, 1, 0, 2, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert "attention_mask" not in batch


@pytest.mark.parametrize("padding_free", [False, True])
def test_rows_without_prompt_are_counted_alike(collate, padding_free):
    """Their first token has no context: 2 of 3 MLE tokens and 1 of 2 RTO positions can be predicted, in either form."""
    batch = collate(padding_free)([entry(View.MLE, []), entry(View.RTO, [])])
    assert count_objectives(batch["objective"]).tolist() == [2, 1]
    if padding_free:
        assert batch["labels"].tolist() == [[X, 22, E, X, _S]]


def test_epoch_is_read_when_the_batch_is_made(collate):
    collator = collate(padding_free=False)
    harmful = {**entry(View.MLE_WITH_PREFIX, [1]), "rejected_ids": [*range(11, 31), E]}
    lengths = set()
    for epoch in range(10):
        collator.epoch.fill_(epoch)
        lengths.add(collator([harmful])["input_ids"].shape[1])
    assert len(lengths) > 3


@pytest.mark.parametrize("padding_free", [False, True])
def test_fillers_count_for_nothing(collate, padding_free):
    """Two rows that fill a batch up: no label, no objective, and not among the lengths."""
    batch = collate(padding_free)([entry(View.MLE, [1, 2]), entry(View.FILLER, [1, 2]), entry(View.FILLER, [1, 2])])
    assert batch["lengths"] == [5]
    assert count_objectives(batch["objective"]).tolist() == [3, 0]
    assert batch["labels"][batch["labels"] != X].tolist() == [21, 22, E]
    assert batch["input_ids"].numel() == (9 if padding_free else 15)
