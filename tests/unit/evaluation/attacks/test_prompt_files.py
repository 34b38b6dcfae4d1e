"""Prompt files in the columns of public benchmarks, with placeholder prompts."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from bag_model import outcomes

from derta.config.evaluation import PromptSetConfig
from derta.config.prompts import PromptFormat
from derta.errors import InputError
from derta.evaluation.attacks.build import build_attack
from derta.evaluation.prompt_files import LAYOUTS, read_prompt_file
from derta.evaluation.prompts import load_prompt_set, make_inputs, read_prompts
from derta.evaluation.records import Outcome, context_of, request_of
from derta.models.messages import written

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
    PromptFormat.wildjailbreak: [
        {"vanilla": "", "adversarial": "harmful request 1", "completion": "No.", "data_type": "adversarial_harmful"},
        {"vanilla": "request 2", "adversarial": "", "completion": "Yes.", "data_type": "vanilla_benign"},
    ],
    PromptFormat.attack_prompts: [
        {"index": 4, "goal": "request 1", "behavior": "One", "prompt": "harmful request 1"},
        {"index": 5, "goal": "request 2", "behavior": "Two", "prompt": "you are an actor: request 2"},
    ],
    PromptFormat.prompt: [{"prompt": "harmful request 1"}, {"prompt": "harmful request 2"}],
    PromptFormat.conversation: [
        {"messages": [{"role": "user", "content": "harmful request 1"}, {"role": "assistant", "content": "No."}]},
        {"messages": [{"role": "user", "content": "harmful request 2"}]},
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


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("format", EXAMPLES, ids=str)
def test_layouts_are_read_and_recognised_in_every_kind_of_file(tmp_path, format, suffix):
    if format is PromptFormat.conversation and suffix == ".csv":
        return  # a cell holds no list
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
    assert set(EXAMPLES) == {name for name, _ in LAYOUTS}
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


def read(tmp_path, records, name="a.jsonl", harmful=True):
    return read_prompt_file(write(tmp_path / name, records), PromptFormat.prompts, harmful=harmful).rows


def test_the_request_that_is_judged_is_a_field_of_its_own(tmp_path):
    def asked(format):
        return [
            (row["prompt"][-1]["content"], written(request_of(row)), context_of(row))
            for row in read(tmp_path, EXAMPLES[format], f"{format}.jsonl")
        ]

    assert asked(PromptFormat.attack_prompts) == [
        ("harmful request 1", "request 1", ""),
        ("you are an actor: request 2", "request 2", ""),
    ]
    assert asked(PromptFormat.harmbench)[1] == ("A text.\n\n---\n\nrequest 2", "request 2", "A text.")
    assert asked(PromptFormat.wildjailbreak)[1] == ("request 2", "request 2", "")
    pair = [{"vanilla": "request 3", "adversarial": "act: request 3", "data_type": "adversarial_harmful"}]
    (row,) = read(tmp_path, pair)
    assert (row["prompt"][0]["content"], written(request_of(row))) == ("act: request 3", "request 3")
    assert (row["source"], row["kind"]) == ("wildjailbreak/adversarial_harmful", "safety")


def test_conversations_are_read_in_the_three_ways_people_write_them(tmp_path):
    turns = [("user", "Where is it?"), ("assistant", "Why?"), ("user", "For fun.")]
    ours = [{"role": role, "content": text} for role, text in turns]
    sharegpt = [{"from": {"user": "human", "assistant": "gpt"}[role], "value": text} for role, text in turns]
    spoken = "\n\nHuman: Where is it?\n\nAssistant: Why?\n\nHuman: For fun.\n\nAssistant: Ring."
    for record in (
        {"messages": [*ours, {"role": "assistant", "content": "Ring."}]},
        {"conversations": [*sharegpt, {"from": "gpt", "value": "Ring."}]},
        {"conversations": sharegpt},
        {"prompt": spoken},
        {"prompt": ours},
    ):
        (row,) = read(tmp_path, [record])
        assert row["prompt"] == ours
        assert written(request_of(row)) == "user: Where is it?\n\nassistant: Why?\n\nuser: For fun."
    (row,) = read(tmp_path, [{"messages": [{"role": "system", "content": "Be kind."}, ours[0]]}])
    assert written(request_of(row)) == "Where is it?"  # what the system says is no request


def test_the_old_xstest_file_tells_its_unsafe_half_by_type(tmp_path):
    records = [
        {"id_v1": 1, "id_v2": "v2-1", "type": "homonyms", "prompt": "request 1", "focus": "kill", "note": ""},
        {"id_v1": 2, "id_v2": "v2-2", "type": "contrast_homonyms", "prompt": "request 2", "focus": "kill", "note": ""},
    ]
    rows = read(tmp_path, records, "xstest.csv", harmful=False)
    assert [(row["id"], row["source"], row["kind"]) for row in rows] == [
        ("xstest-v2-1", "xstest/safe", "helpful"),
        ("xstest-v2-2", "xstest/unsafe", "safety"),
    ]


def test_prompts_are_normalised_as_those_of_rows_are(tmp_path):
    (row,) = read(tmp_path, [{"prompt": "  Cafe\u0301?\r\nNow. \n"}])
    assert row["prompt"][0]["content"] == "Caf\u00e9?\nNow."


ROWS = [{"prompt": "p", "chosen": "c", "rejected": "r"}]
ULTRAFEEDBACK = [
    {
        "prompt": "request 1",
        "prompt_id": "x",
        "chosen": [{"role": "user", "content": "request 1"}, {"role": "assistant", "content": "Yes."}],
        "rejected": [{"role": "user", "content": "request 1"}, {"role": "assistant", "content": "No."}],
        "score_chosen": 9.0,
    }
]


HH_RLHF = [{"chosen": "\n\nHuman: request 1\n\nAssistant: No.", "rejected": "\n\nHuman: request 1\n\nAssistant: Yes."}]


@pytest.mark.parametrize("format", [PromptFormat.derta, PromptFormat.prompts], ids=str)
def test_one_file_is_read_alike_whatever_reads_it(tmp_path, format):
    """`derta` names a built dataset; of a file, either name says: see for yourself."""
    for records, rejected in ((ROWS, True), (ULTRAFEEDBACK, True), (HH_RLHF, True), ([{"prompt": "request 1"}], False)):
        path = write(tmp_path / "a.jsonl", records)
        (row,) = read_prompts(str(path), format, harmful=True).rows
        assert (row["rejected"] is not None) is rejected


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
        ([{"text": "request 1", "request 1 is harmful": 3}], "prompts", "columns a string of 20 characters, text are"),
        ([{"chosen": "a", "rejected": "b"}], "prompts", "line 1: rows with responses .*fix: format=preference"),
        ([{"prompt": "harmful request 1"}], "xstest", "needs the column type, label, found only prompt"),
        ([{"Goal": "harmful request 1"}], "question", "needs the column question"),
        ([{"question": "harmful request 1", "id": 3}] * 2, "question", r"line 2.*'question-3' again.*line 1"),
        ([{"question": " "}, {"question": 3}, {}], "question", r"(?s)line 1.*empty.*line 2.*int 3.*line 3.*null"),
        ([{"prompt": "request 1", "type": "t", "label": "maybe"}], "xstest", "label.*safe or unsafe, found 'maybe'"),
        ([{"prompt": "request 1", "type": "t", "label": "not_safe"}], "xstest", "label.*safe or unsafe, found 'not_s"),
        ([{"adversarial": "request 1", "data_type": "odd"}], "wildjailbreak", "data_type.*_harmful or _benign, found"),
        ([{"prompt": "half \ud83d"}], "prompts", "line 1, field 'prompt': expected whole characters, found half a"),
        ([{"goal": "request 1", "target": "\udc00"}], "advbench", "line 1, field 'target': expected whole characters"),
        ([{"messages": [{"role": "user", "content": ""}]}], "prompts", r"field 'messages\[0\]': expected a non-empty"),
        ([{"messages": [{"role": "robot", "content": "a"}]}], "prompts", "field 'messages': .*found the roles 'robot'"),
        ([{"question": ""}], "question", "fill the field or remove the row$"),
        ([{"messages": []}], "prompts", "field 'messages': expected a non-empty string, found a list of 0"),
        ([{"question": "request 1", "id": [1]}], "question", "field 'id': expected a text or a whole number, found"),
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
