"""Layouts of public repositories, with placeholder texts."""

from __future__ import annotations

import json

import pytest

from derta.errors import InputError
from derta.evaluation.stored.responses import read_responses

PAIRS = [("harmful request 1", "Sorry, no."), ("harmful request 2", "harmful steps 2")]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def json_lines(records):
    return "\n".join(json.dumps(record) for record in records)


@pytest.mark.parametrize("field", ["question", "instruction", "prompt", "goal", "forbidden_prompt"])
def test_json_lines_under_the_name_json(tmp_path, field):
    """DeRTa's results/**.json: a line per object, `question` or `instruction`, sometimes a gold `answer` beside."""
    records = [{field: prompt, "answer": "gold", "response": text} for prompt, text in PAIRS]
    for content in (json_lines(records), json.dumps(records)):
        found = read_responses(write(tmp_path / "results.json", content)).responses
        assert [(one.prompt, one.text) for one in found] == PAIRS
        assert [one.id for one in found] == ["0", "1"] and all(one.harmful for one in found)


def test_bare_strings_and_their_prompts_from_a_second_file(tmp_path):
    """DeRTa's results of completion attack and PAIR hold responses only."""
    file = write(tmp_path / "results.json", json_lines([text for _, text in PAIRS]))
    assert [one.prompt for one in read_responses(file).responses] == [None, None]
    for prompts in (json.dumps([prompt for prompt, _ in PAIRS]), json_lines([{"goal": prompt} for prompt, _ in PAIRS])):
        given = write(tmp_path / "prompts.json", prompts)
        assert [(one.prompt, one.text) for one in read_responses(file, prompts=[given]).responses] == PAIRS
    with pytest.raises(InputError, match="3 prompts for 2 responses"):
        read_responses(file, prompts=[write(tmp_path / "prompts.json", ["a", "b", "c"])])


def test_evaluations_with_labels(tmp_path):
    """refusal_direction's *_evaluations.json: rates, rates per category, and the labelled completions."""
    completions = [
        {"category": "Category 1", "prompt": prompt, "response": text, "is_jailbreak_substring_matching": label}
        for (prompt, text), label in zip(PAIRS, (0, 1), strict=True)
    ]
    content = {
        "substring_matching_success_rate": 0.5,
        "substring_matching_per_category": {},
        "completions": completions,
    }
    found = read_responses(write(tmp_path / "x_evaluations.json", content))
    assert found.label_names == ("is_jailbreak_substring_matching",)
    assert [one.labels["is_jailbreak_substring_matching"] for one in found.responses] == [False, True]
    assert {one.group for one in found.responses} == {"Category 1"}
    harmless = [{**completion, "category": None} for completion in completions]
    found = read_responses(write(tmp_path / "y_evaluations.json", {"completions": harmless}), harmful=False)
    assert {(one.group, one.harmful) for one in found.responses} == {("", False)}


def test_csv_with_a_label_of_any_name(tmp_path):
    content = 'id,prompt,completion,human\nv-1,request 1,"two\nlines, here",unsafe\nv-2,request 2,no,safe\nv-3,r,x,\n'
    found = read_responses(write(tmp_path / "x.csv", content), label="human")
    assert [one.id for one in found.responses] == ["v-1", "v-2", "v-3"]
    assert [one.text for one in found.responses][0] == "two\nlines, here"
    assert [one.labels["human"] for one in found.responses] == [True, False, None]


@pytest.mark.parametrize(("value", "yes"), [(1, True), (0.0, False), (True, True), ("No", False), (None, None)])
def test_labels_in_all_their_spellings(tmp_path, value, yes):
    file = write(tmp_path / "x.json", [{"prompt": "p", "response": "r", "is_jailbreak": value}])
    assert read_responses(file).responses[0].labels["is_jailbreak"] is yes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("[]", "expected a list of responses"),
        ("3", "expected a list of responses"),
        ('{"a": 1}\n{"a": ', "line 2: not JSON"),
        ('{"completions": []}', "expected a list of responses"),
        ('[{"question": "secret", "text": "secret"}]', "entry 1: no text field named response"),
        ('[{"question": "secret", "response": null}]', "entry 1: no text field named response"),
        ('["a", 3]', "entry 2: expected an object or a string, found int"),
        (
            '[{"id": 1, "response": "secret"}, {"id": 1, "response": "b"}]',
            "entry 2: an entry before it has the same id",
        ),
        ('[{"response": "secret", "is_jailbreak": 2}]', "is_jailbreak is neither yes"),
        ('[{"response": "secret", "is_jailbreak": "secret"}]', "is_jailbreak is neither yes"),
    ],
)
def test_bad_files_are_refused_without_their_text(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as error:
        read_responses(write(tmp_path / "bad.json", content))
    assert "secret" not in str(error.value)


def test_every_problem_is_listed(tmp_path):
    with pytest.raises(InputError) as error:
        read_responses(write(tmp_path / "bad.json", [{"x": 1}] * 12))
    assert "entry 10" in str(error.value) and "and 2 more" in str(error.value)


def test_missing_files_and_labels_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_responses(str(tmp_path / "gone.json"))
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_responses(str(tmp_path / "bytes.json"))
    with pytest.raises(InputError, match="label=human: no entry"):
        read_responses(write(tmp_path / "x.json", [{"response": "r"}]), label="human")
