"""Parts for studies of the data mix, compared row by row with the parts they vary."""

from dataclasses import replace

from derta.miniature import rows
from derta.miniature.variants import asked_item, generate


def test_plain_rows_differ_from_the_original_in_the_borderline_clause_alone() -> None:
    pairs = list(zip(rows.generate("helpful", 300, 5), generate("helpful_plain", 300, 5), strict=True))
    changed = 0
    for original, plain in pairs:
        (before, fmt), (after, plain_fmt) = asked_item(original["prompt"]), asked_item(plain["prompt"])
        assert after == replace(before, without=None, prevents=None) and plain_fmt is fmt
        assert plain["id"] == original["id"] and plain["chosen"] == original["chosen"]
        changed += after != before
    assert changed == sum(
        bool(item.without or item.prevents) for item, _ in (asked_item(a["prompt"]) for a, _ in pairs)
    )
    assert 0.2 < changed / 300 < 0.4


def test_borderline_rows_are_benign_and_mention_danger() -> None:
    for row in generate("borderline", 300, 1):
        item, _ = asked_item(row["prompt"])
        assert not item.hazards and (item.without or item.prevents) and row["kind"] == "helpful"
