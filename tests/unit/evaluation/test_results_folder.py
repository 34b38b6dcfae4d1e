from __future__ import annotations

import json
import shlex
import sys

import pytest

from derta.errors import InputError
from derta.evaluation.records import Outcome, Result
from derta.evaluation.results import ResultsFolder

IDENTITY = {"model": {"sha256": "a" * 64, "dtype": "float32"}, "judge": "miniature", "max_new_tokens": 100}


def make_result(id: str, text: str = "harmful steps 3") -> Result:
    return Result("harmful", "direct", id, text, 3, 0, True, Outcome.REFUSED, 0, 0)


def keys(*ids):
    return [("harmful", "direct", id) for id in ids]


@pytest.fixture
def folder(tmp_path):
    folder = ResultsFolder(tmp_path / "evaluation")
    folder.claim(IDENTITY, {})
    return folder


def test_lines_of_all_ranks_are_merged_in_the_given_order(folder):
    folder.append(1, [make_result("c"), make_result("a")])
    folder.append(0, [make_result("b", "two\u2028lines\nand é")])
    merged = folder.merge(keys("a", "b", "c"))
    assert [result.id for result in merged] == ["a", "b", "c"]
    assert merged[1].response == "two\u2028lines\nand é"
    assert sorted(file.name for file in folder.path.iterdir()) == ["evaluation.json", "results.jsonl"]
    assert list(folder.read().values()) == merged


@pytest.mark.parametrize("torn_bytes", [1, 2, 10, 60])
def test_a_torn_last_line_is_dropped_and_what_follows_is_kept(folder, torn_bytes):
    folder.append(0, [make_result("a"), make_result("b", "é" * 30)])
    (partial,) = folder.path.glob("*partial*")
    partial.write_bytes(partial.read_bytes()[:-torn_bytes])
    expected = {"a", "b"} if torn_bytes == 1 else {"a"}  # only the line break is missing: the line is whole
    assert {key[2] for key in folder.read()} == expected
    folder.append(0, [make_result("c")])
    assert {key[2] for key in folder.read()} == expected | {"c"}


def test_the_same_evaluation_is_continued_and_another_is_refused(folder):
    assert folder.holds(IDENTITY)
    other = IDENTITY | {"model": {"sha256": "b" * 64, "dtype": "float32"}, "max_new_tokens": 50}
    with pytest.raises(InputError) as error:
        folder.holds(other)
    assert "model.sha256" in str(error.value) and "max_new_tokens: 100 there, 50 here" in str(error.value)
    assert "judge" not in str(error.value)


def test_results_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="no evaluation.json"):
        ResultsFolder(tmp_path).holds(IDENTITY)


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        ResultsFolder(tmp_path / "file" / "results").claim(IDENTITY, {})


def test_lines_hold_the_documented_fields(folder):
    folder.append(0, [make_result("a")])
    (partial,) = folder.path.glob("*partial*")
    line = json.loads(partial.read_text())
    assert line["outcome"] == "refused"
    assert {"prompt_set", "attack", "id", "response", "refusal_token", "refusal_word", "prefill_tokens"} <= set(line)


def test_the_command_can_be_run_again_from_the_file_that_nobody_gets(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["launch/evaluate.py", f"model.name_or_path={tmp_path}/a b", "label=x"])
    ResultsFolder(tmp_path / "out").claim({"model": "m"}, {})
    kept = json.loads((tmp_path / "out" / "evaluation.json").read_text())["command"]
    assert shlex.split(kept) == sys.argv
