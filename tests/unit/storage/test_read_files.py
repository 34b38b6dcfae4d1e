"""Files to records: every format, and every way a file can be broken, with file and line in the message."""

import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from derta.errors import InputError
from derta.storage.read_files import find_files, read_file

RECORDS = [{"instruction": "request 1", "output": "answer 1"}, {"instruction": "request, 2", "output": 'line\n"two"'}]


def values(path):
    return [dict(record.values) for record in read_file(path)]


def places(path):
    return [(record.place.unit, record.place.number) for record in read_file(path)]


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\ufeff" + lines(RECORDS[:1]) + "\n" + lines(RECORDS[1:]))
    assert values(path) == RECORDS
    assert places(path) == [("line", 1), ("line", 3)]  # line 2 is empty


def test_line_separators_inside_strings_do_not_split_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps({"output": "a\u2028b\x85c"}, ensure_ascii=False) + "\n" + lines(RECORDS), encoding="utf-8"
    )
    assert places(path)[-1] == ("line", 3)


def test_json_list_and_json_lines_in_a_json_file(tmp_path):
    as_list, as_lines = tmp_path / "list.json", tmp_path / "lines.json"
    as_list.write_text(json.dumps(RECORDS, indent=1))
    as_lines.write_text(lines(RECORDS))
    assert values(as_list) == values(as_lines) == RECORDS
    assert places(as_list) == [("item", 1), ("item", 2)]


def test_csv_counts_lines_through_quoted_line_breaks(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('instruction,output\n"request, 2","line\n""two"""\nrequest 1,answer 1\n')
    assert values(path) == [RECORDS[1], RECORDS[0]]
    assert places(path) == [("line", 2), ("line", 4)]


def test_parquet_and_both_arrow_formats(tmp_path):
    table = pa.Table.from_pylist(RECORDS)
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    pa.feather.write_feather(table, str(tmp_path / "file.arrow"), compression="uncompressed")
    with pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "file.arrow", "stream.arrow"):
        assert values(tmp_path / name) == RECORDS
        assert places(tmp_path / name) == [("row", 1), ("row", 2)]


def test_saved_dataset_directory(tmp_path):
    import datasets

    datasets.Dataset.from_list(RECORDS).save_to_disk(tmp_path / "saved")
    files = find_files("saved", [tmp_path])
    assert [file.suffix for file in files] == [".arrow"] and values(files[0]) == RECORDS


def test_paths_are_looked_up_beside_the_recipe_first(tmp_path):
    for folder, text in (("recipes", "here"), ("work", "there")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text(lines([{"output": text}]))
    (tmp_path / "work" / "b.jsonl").write_text(lines(RECORDS))
    folders = [tmp_path / "recipes", tmp_path / "work"]
    assert find_files("a.jsonl", folders) == [tmp_path / "recipes" / "a.jsonl"]
    assert find_files("b.jsonl", folders) == [tmp_path / "work" / "b.jsonl"]
    assert [file.name for file in find_files(str(tmp_path / "work" / "*.jsonl"), folders)] == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": 2\n{"a": 3}\n', r"a.jsonl, line 2: .*malformed JSON .*column 8\); fix: cor"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', r"a.jsonl, line 2: expected a JSON object, found a list of 1; fix:"),
        ("a.json", b'[{"a": 1},\n {"a": }]', r"a.json, line 2: expected a JSON list .*malformed JSON .*fix:"),
        ("a.json", b'[{"a": 1}, "text"]', r"a.json, item 2: expected a JSON object, found a string of 4 .*; fix:"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', r"a.jsonl, line 2: expected UTF-8 .*0xe9\); fix: convert"),
        ("a.csv", b"a,b\n1,2\n3,\xff\n", r"a.csv, line 3: expected UTF-8 text, .*0xff\); fix: convert"),
        ("a.csv", b"a,b\n1,2\n3\n", r"a.csv, line 3: expected 2 cells as in the header, found 1; fix: quote"),
        ("a.csv", b"a,b,a\n1,2,3\n", r"a.csv, line 1: expected every column once, found a more than"),
        ("a.csv", b'a,b\n1,"2"x\n', r"a.csv, line 2: malformed CSV .*fix: correct the quoting"),
        ("a.parquet", b"text", r"a.parquet: not a readable parquet file .*fix: copy it again"),
        ("a.arrow", b"text", r"a.arrow: not a readable Arrow file .*fix: copy it again"),
        ("a.jsonl", b"\n", r"a.jsonl: expected at least one record, found none; fix:"),
        ("a.txt", b"text", r"a.txt: expected one of .jsonl, .*found '.txt'; fix: convert"),
    ],
)
def test_broken_file(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        values(tmp_path / name)


def test_all_malformed_lines_are_listed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' + "{bad\n" * 12)
    with pytest.raises(InputError) as error:
        values(path)
    assert str(error.value).count("malformed JSON") == 10 and "... and 2 more" in str(error.value)


def test_nothing_at_the_path(tmp_path):
    with pytest.raises(
        InputError, match=r"path 'no.jsonl': .*found nothing \(looked at .*no.jsonl.*\); fix: correct the path"
    ):
        find_files("no.jsonl", [tmp_path])


def test_mixed_kinds_in_a_directory(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "b.csv").write_text("a\n1\n")
    with pytest.raises(
        InputError, match=r"data files of one kind, found .csv, .jsonl; fix: name one kind with a pattern"
    ):
        find_files(str(tmp_path), [])
