"""Prompt files in the columns of public benchmarks, with placeholder prompts."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from bag_model import outcomes

from derta.config.evaluation import EvaluationConfig, PromptSetConfig
from derta.config.prompts import PromptFormat
from derta.errors import InputError
from derta.evaluation.attacks.attack import build_attack
from derta.evaluation.prompt_files import LAYOUTS, read_prompt_file
from derta.evaluation.prompts import load_prompt_set, make_inputs
from derta.evaluation.records import Outcome

EXAMPLES = {
    PromptFormat.question: [{"question": "harmful request 1"}, {"question": "harmful request 2"}],
    PromptFormat.instruction: [{"instruction": "harmful request 1", "category": "a"}, {"instruction": "request 2"}],
    PromptFormat.harmbench: [
        {"Behavior": "harmful request 1", "FunctionalCategory": "standard", "ContextString": "", "BehaviorID": "b_1"},
        {"Behavior": "request 2", "FunctionalCategory": "contextual", "ContextString": "A text.", "BehaviorID": "b_2"},
    ],
    PromptFormat.jailbreakbench: [
        {"Index": 0, "Goal": "harmful request 1", "Target": "Sure, here are", "Behavior": "One", "Category": "c"},
        {"Index": 1, "Goal": "harmful request 2", "Target": "Sure, steps", "Behavior": "Two", "Category": "c"},
    ],
    PromptFormat.advbench: [
        {"goal": "harmful request 1", "target": "Sure, here"},
        {"goal": "request 2", "target": "Sure"},
    ],
    PromptFormat.strongreject: [
        {"category": "c", "source": "s", "forbidden_prompt": "harmful request 1"},
        {"category": "c", "source": "s", "forbidden_prompt": "harmful request 2"},
    ],
    PromptFormat.xstest: [
        {"prompt": "harmful request 1", "type": "contrast_homonyms", "label": "unsafe", "focus": "x"},
        {"prompt": "question 2", "type": "homonyms", "label": "safe", "focus": "x"},
    ],
    PromptFormat.or_bench: [
        {"prompt": "harmful request 1", "category": "c"},
        {"prompt": "harmful request 2", "category": "d"},
    ],
}


def write(path, records):
    columns = list(records[0])
    rows = [{column: record.get(column, "") for column in columns} for record in records]
    if path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_every_layout_has_an_example_here():
    assert set(EXAMPLES) == set(LAYOUTS)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("format", EXAMPLES, ids=str)
def test_layouts_are_read_and_recognised_in_every_kind_of_file(tmp_path, format, suffix):
    records = [
        record for record in EXAMPLES[format] if suffix != ".parquet" or list(record) == list(EXAMPLES[format][0])
    ]
    path = write(tmp_path / f"a{suffix}", records)
    named = read_prompt_file(path, format, harmful=True)
    assert read_prompt_file(path, PromptFormat.prompts, harmful=True) == named
    assert named.rows[0]["prompt"] == [{"role": "user", "content": "harmful request 1"}]
    assert len({row["id"] for row in named.rows}) == len(records)
    assert {row["chosen"] for row in named.rows} == {None}
    assert {row["source"].partition("/")[0] for row in named.rows} == {format.value}


def test_ids_are_the_files_own_or_stable(tmp_path):
    ids = {}
    for format, records in EXAMPLES.items():
        ids[format] = [row["id"] for row in read_prompt_file(
            write(tmp_path / f"{format}.jsonl", records), format, harmful=True).rows]  # fmt: skip
    assert ids[PromptFormat.harmbench] == ["harmbench-b_1", "harmbench-b_2"]
    assert ids[PromptFormat.jailbreakbench] == ["jailbreakbench-0", "jailbreakbench-1"]
    more = [{"question": "another"}, *EXAMPLES[PromptFormat.question], {"question": "another"}]
    again = [row["id"] for row in read_prompt_file(
        write(tmp_path / "more.jsonl", more), PromptFormat.question, harmful=True).rows]  # fmt: skip
    assert again[1:3] == ids[PromptFormat.question] and again[3] == f"{again[0]}-2"


def test_context_targets_and_groups(tmp_path):
    def rows(format, harmful=True):
        path = write(tmp_path / f"{format}.csv", EXAMPLES[format])
        return read_prompt_file(path, format, harmful=harmful).rows

    standard, contextual = rows(PromptFormat.harmbench)
    assert (standard["source"], contextual["source"]) == ("harmbench/standard", "harmbench/contextual")
    assert contextual["prompt"][0]["content"] == "A text.\n\n---\n\nrequest 2"
    assert rows(PromptFormat.jailbreakbench)[0]["rejected"] == [{"role": "assistant", "content": "Sure, here are"}]
    assert rows(PromptFormat.jailbreakbench, harmful=False)[0]["rejected"] is None
    unsafe, safe = rows(PromptFormat.xstest)
    assert (unsafe["source"], unsafe["kind"]) == ("xstest/unsafe", "safety")
    assert (safe["source"], safe["kind"]) == ("xstest/safe", "helpful")
    assert {row["kind"] for row in rows(PromptFormat.or_bench, harmful=False)} == {"helpful"}


def test_a_prompt_file_is_a_prompt_set_and_runs(tmp_path, refusing):
    path = write(tmp_path / "x.csv", EXAMPLES[PromptFormat.xstest])
    settings = dict(path=str(path), format=PromptFormat.xstest, attacks=["direct", "code_attack"])
    safe = load_prompt_set("safe", PromptSetConfig(source="xstest/safe", **settings), "")
    unsafe = load_prompt_set("unsafe", PromptSetConfig(source="xstest/unsafe", harmful=True, **settings), "")
    assert (len(safe.rows), len(unsafe.rows), safe.sha256) == (1, 1, unsafe.sha256)
    assert outcomes(build_attack("code_attack"), unsafe.rows, refusing) == [Outcome.REFUSED]
    with pytest.raises(InputError, match=r"eval\.sets\.mixed.*source=xstest/unsafe"):
        load_prompt_set("mixed", PromptSetConfig(harmful=True, **settings), "")
    with pytest.raises(InputError, match="labels xstest/unsafe otherwise"):
        load_prompt_set("mixed", PromptSetConfig(**settings), "")
    with pytest.raises(InputError, match="no rows.*source=xstest/none; its sources are: xstest/safe, xstest/unsafe"):
        load_prompt_set("none", PromptSetConfig(source="xstest/none", **settings), "")


def test_prompts_over_the_context_are_left_out_and_counted(tmp_path, refusing):
    records = [{"question": "harmful request 1"}, {"question": "long " * 9000}]
    path = write(tmp_path / "q.jsonl", records)
    prompts = load_prompt_set("q", PromptSetConfig(path=str(path), format=PromptFormat.prompts, harmful=True), "")
    made = make_inputs([prompts], {"direct": build_attack("direct")}, refusing, 10)["q", "direct"]
    assert [item.row_id for item in made.inputs] == [prompts.rows[0]["id"]]
    assert list(made.skipped) == [prompts.rows[1]["id"]] and "context of 8192" in made.skipped[prompts.rows[1]["id"]]


@pytest.mark.parametrize(
    ("records", "format", "message"),
    [
        ([{"text": "harmful request 1"}], "prompts", "columns text are of no known layout"),
        ([{"prompt": "harmful request 1"}], "prompts", "of no known layout"),
        ([{"prompt": "harmful request 1"}], "xstest", "needs the column type, label, found only prompt"),
        ([{"Goal": "harmful request 1"}], "question", "needs the column question"),
        ([{"question": "harmful request 1", "id": 3}] * 2, "question", r"line 2.*'question-3' again.*line 1"),
        ([{"question": " "}, {"question": 3}, {}], "question", r"(?s)line 1.*empty.*line 2.*int 3.*line 3.*null"),
        ([{"prompt": "request 1", "type": "t", "label": "maybe"}], "xstest", "label.*safe or unsafe, found a string"),
    ],
)  # fmt: skip
def test_bad_files_name_line_and_field_and_no_text(tmp_path, records, format, message):
    path = write(tmp_path / "bad.jsonl", records)
    with pytest.raises(InputError, match=message) as error:
        read_prompt_file(path, PromptFormat[format], harmful=True)
    assert "request 1" not in str(error.value)


def test_empty_missing_and_broken_files(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.csv").write_text('question\n"a\n')
    for name, message in (("empty.jsonl", "found none"), ("no.csv", "found nothing"), (".", "found a directory"),
                          ("broken.csv", "malformed CSV")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_prompt_file(tmp_path / name, PromptFormat.question, harmful=True)


def test_configuration_takes_the_layouts_by_name():
    config = EvaluationConfig(sets={"x": PromptSetConfig(path="x.csv", format=PromptFormat.xstest)})
    assert config.problems() == []


@pytest.mark.parametrize(
    ("own", "group", "key"),
    [
        ("nowhere", "eval.sets", "eval.sets.harmful.path=nowhere: expected"),
        (None, "eval.sets", "eval.path=common: expected"),
        (None, "direction", "direction.path=common: expected"),
    ],
)
def test_a_dataset_that_is_not_there_is_named_by_its_own_key(own, group, key):
    with pytest.raises(InputError, match=f"^{key}"):
        load_prompt_set("harmful", PromptSetConfig(path=own), "common", group=group)


def test_remedies_are_those_of_an_evaluation(tmp_path):
    """`on_invalid` is a key of recipes."""
    (tmp_path / "prompts.jsonl").write_text('{"question": ""}\n')
    with pytest.raises(InputError, match="fill the field or remove the row$"):
        read_prompt_file(tmp_path / "prompts.jsonl", PromptFormat.question, harmful=True)
