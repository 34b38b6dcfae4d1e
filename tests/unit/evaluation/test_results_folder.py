import json
import shlex
import sys

import pytest
from report_cases import result

from derta.errors import InputError
from derta.evaluation.records import Outcome, Result
from derta.evaluation.results import ResultsFolder

IDENTITY = {"model": {"sha256": "a" * 64, "dtype": "float32"}, "judge": "miniature", "max_new_tokens": 100}


def refused(id: str, text: str = "harmful steps 3") -> Result:
    return result(Outcome.REFUSED, id=id, response=text, refusal_token=0, refusal_word=0)


@pytest.fixture
def folder(tmp_path):
    folder = ResultsFolder(tmp_path / "evaluation")
    folder.claim(IDENTITY, {})
    return folder


def test_lines_of_all_ranks_are_merged_in_the_given_order(folder):
    folder.append(1, [refused("c"), refused("a")])
    folder.append(0, [refused("b", "two\u2028lines\nand é")])
    merged = folder.merge([("harmful", "direct", id) for id in "abc"])
    assert [result.id for result in merged] == ["a", "b", "c"]
    assert merged[1].response == "two\u2028lines\nand é"
    assert sorted(file.name for file in folder.path.iterdir()) == ["evaluation.json", "results.jsonl"]
    assert list(folder.read().values()) == merged
    line = json.loads((folder.path / "results.jsonl").read_text().splitlines()[0])
    assert line["outcome"] == "refused"
    assert {"prompt_set", "attack", "id", "response", "refusal_token", "refusal_word", "prefill_tokens"} <= set(line)


def test_the_same_evaluation_is_continued_and_another_is_refused(folder):
    assert folder.holds(IDENTITY)
    other = IDENTITY | {"model": {"sha256": "b" * 64, "dtype": "float32"}, "max_new_tokens": 50}
    with pytest.raises(InputError) as error:
        folder.holds(other)
    assert "model.sha256" in str(error.value) and "max_new_tokens: 100 there, 50 here" in str(error.value)
    assert "judge" not in str(error.value)
    (folder.path / "evaluation.json").unlink()
    folder.append(0, [refused("a")])
    with pytest.raises(InputError, match="no evaluation.json"):
        folder.holds(IDENTITY)


def test_the_command_can_be_run_again_from_the_file_that_nobody_gets(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["launch/evaluate.py", f"model.name_or_path={tmp_path}/a b", "label=x"])
    ResultsFolder(tmp_path / "out").claim({"model": "m"}, {})
    kept = json.loads((tmp_path / "out" / "evaluation.json").read_text())["command"]
    assert shlex.split(kept) == sys.argv
