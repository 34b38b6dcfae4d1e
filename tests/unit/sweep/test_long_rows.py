"""Long rows from short ones, on placeholder texts."""

from __future__ import annotations

import stat
from pathlib import Path

from derta.storage.json_lines import read_lines, write_lines
from derta.sweep.long_rows import joined_rows, write_long_rows


def rows(count: int, length: int = 10) -> list[dict]:
    return [
        {
            "id": f"r{i}", "source": "safety", "kind": "safety",
            "prompt": [{"role": "user", "content": f"How do I brew {i}?"}],
            "chosen": [{"role": "assistant", "content": "Sorry, no."}],
            "rejected": [{"role": "assistant", "content": str(i) * length}],
        }
        for i in range(count)
    ]  # fmt: skip


def test_requests_stand_in_one_prompt_and_their_answers_one_after_another():
    long = list(joined_rows(rows(4), characters=25))
    assert [row["id"] for row in long] == ["long-r0", "long-r1", "long-r2", "long-r3"]
    last = long[3]  # 3, then round the end: 0 and 1, with which there are 30 characters
    asked = last["prompt"][0]["content"].splitlines()
    assert asked[2:] == ["1. How do I brew 3?", "2. How do I brew 0?", "3. How do I brew 1?"]
    assert last["rejected"][0]["content"] == f"1. {'3' * 10}\n\n2. {'0' * 10}\n\n3. {'1' * 10}"
    assert last["chosen"] == rows(1)[0]["chosen"] and last["kind"] == "safety"
    assert list(joined_rows(rows(4), characters=25)) == long
    assert len(list(joined_rows(rows(30), characters=25))) == 24


def test_too_few_answers_are_all_taken_and_each_but_once():
    (row,) = joined_rows(rows(1), characters=1000)
    assert row["rejected"][0]["content"] == "1. 0000000000"
    assert [row["rejected"][0]["content"].count("\n\n") for row in joined_rows(rows(3), 1000)] == [2, 2, 2]


def test_the_file_is_for_its_owner_alone(tmp_path: Path):
    write_lines(tmp_path / "rows.jsonl", rows(2))
    file = write_long_rows(tmp_path / "rows.jsonl", tmp_path / "long.jsonl")
    assert list(read_lines(file)) == list(joined_rows(rows(2)))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
