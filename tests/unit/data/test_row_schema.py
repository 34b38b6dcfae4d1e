"""Every rule of the row schema has a row that breaks it, and the problem names field, expectation and fix."""

import subprocess
import sys

import pytest

from derta.data.schema import row_id, row_problems
from derta.storage.places import describe


def triple(**changes):
    row = {
        "id": "row-1",
        "source": "safety",
        "kind": "safety",
        "prompt": [{"role": "user", "content": "harmful request 1"}],
        "chosen": [{"role": "assistant", "content": "Sorry, I can't help with that."}],
        "rejected": [{"role": "assistant", "content": "harmful steps 1"}],
    }
    return {**row, **changes}


def raw(text):
    return [{"role": "text", "content": text}]


def test_good_rows_have_no_problem():
    helpful = triple(kind="helpful", rejected=None)
    with_system = triple(prompt=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "request"}])
    expanded = triple(prompt=raw("[INST] request 1 "), chosen=None, rejected=raw(" harmful steps 1"))
    for row in (triple(), helpful, with_system, expanded):
        assert row_problems(row) == []


BAD_ROWS = {
    "empty content": (triple(prompt=[{"role": "user", "content": " \n"}]), "prompt[0].content", "empty_field"),
    "content is a number": (triple(chosen=[{"role": "assistant", "content": 7}]), "chosen[0].content", "not_a_string"),
    "unknown role": (triple(prompt=[{"role": "human", "content": "request"}]), "prompt[0].role", "unknown_role"),
    "no messages": (triple(prompt=[]), "prompt", "not_messages"),
    "prompt is null": (triple(prompt=None), "prompt", "not_messages"),
    "plain string": (triple(chosen="Sorry, no."), "chosen", "not_messages"),
    "extra key": (triple(prompt=[{"role": "user", "content": "r", "n": 1}]), "prompt[0]", "not_a_message"),
    "prompt ends with the assistant": (
        triple(prompt=[{"role": "user", "content": "r"}, {"role": "assistant", "content": "a"}]),
        "prompt",
        "prompt_not_user",
    ),
    "response is the user's": (triple(chosen=[{"role": "user", "content": "r"}]), "chosen", "response_not_assistant"),
    "two messages in a response": (
        triple(rejected=[{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]),
        "rejected",
        "response_not_assistant",
    ),
    "same responses": (
        triple(rejected=[{"role": "assistant", "content": "Sorry, I can't help with that. "}]),
        "rejected",
        "same_responses",
    ),
    "helpful with a harmful response": (triple(kind="helpful"), "rejected", "helpful_with_rejected"),
    "no response": (triple(chosen=None, rejected=None), "chosen", "no_response"),
    "unknown kind": (triple(kind="harmless"), "kind", "unknown_kind"),
    "raw text beside chat": (triple(prompt=raw("request")), "prompt", "mixed_raw_text"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row(name):
    row, field, reason = BAD_ROWS[name]
    assert (field, reason) in [(problem.field, problem.reason) for problem in row_problems(row)]


def test_text_never_stands_in_a_problem():
    secret = "harmful steps with many words"
    row = triple(kind=secret, prompt=secret, chosen=[{"role": secret, "content": 3}], rejected=[{secret: secret}])
    assert len(row_problems(row)) >= 4
    assert not any(secret in problem.at("file, line 1") for problem in row_problems(row))


def test_describe():
    words = [(None, "null"), ("  ", "an empty string"), ("maybe", "a string of 5 characters"), (True, "bool true")]
    for value, expected in [*words, (2, "int 2"), ([1, 2], "a list of 2"), ({}, "a value of type dict")]:
        assert describe(value) == expected
    assert describe("maybe", is_name=True) == "'maybe'"
    assert describe("two words", is_name=True) == "a string of 9 characters"


def test_row_id_depends_on_every_part_and_on_nothing_else():
    row = triple()
    parts = ["safety", row["prompt"], row["chosen"], row["rejected"]]
    name = row_id(*parts)
    assert name.startswith("safety-") and len(name) == len("safety-") + 16
    assert row_id("safety", [{"content": "harmful request 1", "role": "user"}], *parts[2:]) == name
    for index in range(4):
        changed = list(parts)
        changed[index] = "other" if index == 0 else raw("other")
        assert row_id(*changed) != name


def test_imports_stay_light():
    code = (
        "import sys, derta.data.schema, derta.data.load, derta.data.build, derta.data.recipe, derta.miniature.judge;"
        "sys.exit(bool({'torch', 'datasets', 'pyarrow', 'transformers', 'trl', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
