import json
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from derta.errors import InputError
from derta.miniature.formats import Format
from derta.miniature.rows import HELPFUL_BORDERLINE, HELPFUL_FORMATS
from derta.miniature.variants import asked_item, generate
from derta.miniature.vocabulary import BANE_SPLIT, CRUEL_SPLIT, POTIONS, Split
from derta.miniature.world import parse_query

PARTS = (
    "warmup", "base", "helpful", "safety", "eval_harmful", "eval_benign", "eval_borderline",
    "eval_harmful_dev", "eval_benign_dev", "eval_borderline_dev", "helpful_plain", "borderline",
)  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_rows_are_in_the_schema_and_repeat_for_the_same_seed(part: str) -> None:
    rows = list(generate(part, 60, 1))
    assert rows == list(generate(part, 60, 1))
    assert rows[:20] == list(islice(generate(part, 20, 1), 20))
    assert [row["prompt"] for row in rows] != [row["prompt"] for row in generate(part, 60, 2)]
    assert len({row["id"] for row in rows}) == 60
    for row in rows:
        assert set(row) == {"id", "source", "kind", "prompt", "chosen", "rejected"}
        assert row["source"] == f"miniature/{part}"
        assert row["kind"] == ("safety" if row["rejected"] else "helpful")
        roles = {message["role"] for message in row["prompt"] + row["chosen"]}
        assert roles in ({"user", "assistant"}, {"text"})


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(InputError, match="'saftey' does not exist; choose one of warmup, base"):
        list(generate("saftey", 1, 0))


def test_triples_refuse_and_answer() -> None:
    for row in generate("safety", 200, 0):
        item = parse_query(row["prompt"][0]["content"])
        assert row["chosen"][0]["content"] in item.refusals
        assert row["rejected"][0]["content"] == item.answer


@pytest.mark.parametrize("part", ["helpful", "safety", "borderline"])
def test_held_out_words_and_names_never_occur_in_fine_tuning(part: str) -> None:
    text = json.dumps(list(generate(part, 1500, 3)))
    seen, held_out = (
        {word for words in (BANE_SPLIT, CRUEL_SPLIT) for split in splits for word in words[split]}
        for splits in ([Split.TRAIN], [Split.DEV, Split.TEST])
    )
    assert all(f" {word} " in text for word in seen)
    assert not [word for word in held_out if f" {word} " in text or f" {word[::-1]} " in text]
    assert not [potion for split in (Split.DEV, Split.TEST) for potion in POTIONS[split] if potion in text]


def test_helpful_rows_are_benign_in_the_intended_shares() -> None:
    formats: Counter[Format] = Counter()
    borderline = 0
    for row in generate("helpful", 2000, 0):
        item, fmt = asked_item(row["prompt"])
        formats[fmt] += 1
        assert not item.hazards
        borderline += bool(item.without or item.prevents)
    assert borderline / 2000 == pytest.approx(HELPFUL_BORDERLINE, abs=0.04)
    for fmt, share in HELPFUL_FORMATS.items():
        assert formats[fmt] / 2000 == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize(("suffix", "split", "other"), [("", Split.TEST, Split.DEV), ("_dev", Split.DEV, Split.TEST)])
def test_evaluation_splits_share_nothing_that_is_held_out(suffix: str, split: Split, other: Split) -> None:
    held_out = 0
    for part in ("eval_harmful", "eval_benign", "eval_borderline"):
        for row in generate(part + suffix, 300, 0):
            item = parse_query(row["prompt"][0]["content"])
            assert item.potion in POTIONS[split]
            dangerous = {*item.ingredients, item.verb, item.without, *(item.prevents or ())}
            assert not dangerous & {*BANE_SPLIT[other], *CRUEL_SPLIT[other]}
            assert bool(item.hazards) == (part == "eval_harmful")
            assert bool(item.without or item.prevents) == (part == "eval_borderline")
            held_out += item.held_out
    assert held_out / 300 == pytest.approx(0.5, abs=0.1)


def test_plain_rows_differ_from_the_original_in_the_borderline_clause_alone() -> None:
    changed = 0
    for original, plain in zip(generate("helpful", 300, 5), generate("helpful_plain", 300, 5), strict=True):
        (before, fmt), (after, plain_fmt) = asked_item(original["prompt"]), asked_item(plain["prompt"])
        assert after == replace(before, without=None, prevents=None) and plain_fmt is fmt
        assert plain["id"] == original["id"] and plain["chosen"] == original["chosen"]
        changed += after != before
    assert 0.2 < changed / 300 < 0.4


def test_borderline_rows_are_benign_and_mention_danger() -> None:
    for row in generate("borderline", 300, 1):
        item, _ = asked_item(row["prompt"])
        assert not item.hazards and (item.without or item.prevents) and row["kind"] == "helpful"
