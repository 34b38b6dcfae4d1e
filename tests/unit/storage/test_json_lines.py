"""Logs of whole lines, whatever a killed writer left behind."""

import json

import pytest

from derta.storage.json_lines import append_lines, parse_lines, read_lines

ENTRIES = [{"id": "a", "text": "one\u2028two\x85"}, {"id": "b", "text": "é" * 50}]


def test_what_is_appended_is_read(tmp_path):
    log = tmp_path / "log.jsonl"
    assert list(read_lines(log)) == []
    for entry in ENTRIES:
        append_lines(log, [entry])
    assert list(read_lines(log)) == ENTRIES and log.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("torn_bytes", [1, 2, 10, 60, 110])
def test_half_a_line_is_left_out_and_cut_off_by_the_next_writer(tmp_path, torn_bytes):
    log = tmp_path / "log.jsonl"
    append_lines(log, ENTRIES)
    log.write_bytes(log.read_bytes()[:-torn_bytes])
    kept = ENTRIES if torn_bytes == 1 else ENTRIES[:1]  # only the line end is missing: the line is whole
    assert list(read_lines(log)) == kept
    append_lines(log, [{"id": "c"}])
    assert [json.loads(line) for line in log.read_bytes().splitlines()] == [*kept, {"id": "c"}]


def test_half_a_line_longer_than_a_block_is_cut_off(tmp_path):
    log = tmp_path / "log.jsonl"
    append_lines(log, [{"id": "a"}])
    with log.open("ab") as file:
        file.write(b'{"id": "' + b"x" * 200_000)
    append_lines(log, [{"id": "b"}])
    assert list(read_lines(log)) == [{"id": "a"}, {"id": "b"}]


def test_lines_that_are_no_objects_are_no_entries(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"id": "a"}\n\xff\xfe\n12\n\n{"id"\n{"id": "b"}\n')
    assert [entry["id"] for entry in read_lines(tmp_path / "log.jsonl")] == ["a", "b"]


def test_half_surrogates_survive(tmp_path):
    append_lines(tmp_path / "log.jsonl", [{"text": "half \ud83d"}])
    assert list(read_lines(tmp_path / "log.jsonl")) == [{"text": "half \ud83d"}]


@pytest.mark.parametrize(
    "line", ["{", '{"a": 1, "a": 2}', '{"b": {"a": 1, "a": 1}}', "[" * 100_000, "9" * 5_000, '"a" "b"', "NaNs"]
)
def test_what_is_no_json_is_its_error(line):
    ((number, value),) = parse_lines("\n" + line)
    assert number == 2 and isinstance(value, ValueError)
