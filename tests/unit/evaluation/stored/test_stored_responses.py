"""Layouts of public repositories, with placeholder texts."""

import json

import pytest

from derta.errors import InputError
from derta.evaluation.records import context_of
from derta.evaluation.stored.responses import read_responses
from derta.models.messages import written

PAIRS = [("harmful request 1", "Sorry, no."), ("harmful request 2", "harmful steps 2")]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def pairs(found):
    return [(written(one.request), one.text) for one in found]


def json_lines(records):
    return "\n".join(json.dumps(record) for record in records)


@pytest.mark.parametrize("field", ["question", "instruction", "prompt", "goal", "forbidden_prompt"])
def test_json_lines_under_the_name_json(tmp_path, field):
    """DeRTa's results/**.json: a line per object, `question` or `instruction`, sometimes a gold `answer` beside."""
    records = [{field: prompt, "answer": "gold", "response": text} for prompt, text in PAIRS]
    for content in (json_lines(records), json.dumps(records)):
        found = read_responses(write(tmp_path / "results.json", content)).responses
        assert pairs(found) == PAIRS
        assert [one.id for one in found] == ["0", "1"] and all(one.harmful for one in found)


def test_bare_strings_and_their_prompts_from_a_second_file(tmp_path):
    """DeRTa's results of completion attack and PAIR hold responses only."""
    file = write(tmp_path / "results.json", json_lines([text for _, text in PAIRS]))
    assert [one.request for one in read_responses(file).responses] == [None, None]
    for prompts in (json.dumps([prompt for prompt, _ in PAIRS]), json_lines([{"goal": prompt} for prompt, _ in PAIRS])):
        given = write(tmp_path / "prompts.json", prompts)
        assert pairs(read_responses(file, prompts=[given]).responses) == PAIRS
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
        ("", "bad.json: expected at least one record, found none"),
        ("[]", "bad.json: expected at least one record, found none"),
        ("3", "bad.json: expected a JSON list of objects, found int 3"),
        ('{"a": 1}\n{"a": ', "line 2: expected one JSON object per line, found malformed JSON"),
        ('{"completions": []}', "expected at least one record"),
        (
            '[{"question": "secret", "text": "a"}]',
            r"item 1, field 'response': .* only the fields question, text; fix: c",
        ),
        ('[{"question": "secret", "response": 3}]', "item 1, field 'response': expected a string, found int 3"),
        ('[{"question": "secret", "response": "\\ud83d"}]', "item 1, field 'response': expected whole characters"),
        ('[{"goal": "\\udc00", "response": "secret"}]', "item 1, field 'goal': expected whole characters"),
        ('[{"goal": 3, "response": "secret"}]', "item 1, field 'goal': expected a string, found int 3"),
        ('["a", 3]', "item 2, field '.entry.': expected an object or a string, found int 3"),
        ('[{"response": "secret", "id": ["secret"]}]', "item 1, field 'id': expected a text or a whole number, found"),
        (
            '[{"id": 1, "response": "secret"}, {"id": 1, "response": "b"}]',
            r"item 2: an entry before it \(.*item 1\) has the same id",
        ),
        ('[{"response": "secret", "is_jailbreak": 2}]', "field 'is_jailbreak': expected yes .*, found int 2"),
        ('[{"response": "secret", "is_jailbreak": "secret"}]', "field 'is_jailbreak': expected yes .*, found a string"),
    ],
)
def test_bad_files_are_refused_without_their_text(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as error:
        read_responses(write(tmp_path / "bad.json", content))
    assert "secret" not in str(error.value)


def test_missing_files_and_labels_are_named_and_every_problem_is_listed(tmp_path):
    with pytest.raises(InputError) as error:
        read_responses(write(tmp_path / "bad.json", [{"x": 1}] * 12))
    assert "item 10" in str(error.value) and "and 2 more" in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_responses(str(tmp_path / "gone.json"))
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="bytes.json, line 1: expected UTF-8"):
        read_responses(str(tmp_path / "bytes.json"))
    with pytest.raises(InputError, match="label=human: no entry"):
        read_responses(write(tmp_path / "x.json", [{"response": "r"}]), label="human")


def test_the_goal_is_judged_and_not_the_attack_beside_it(tmp_path):
    """JailbreakBench's artifacts: an object with a list under "jailbreaks", null where no attack was found."""
    artifact = {
        "parameters": {"model": "x"},
        "jailbreaks": [
            {"index": 0, "goal": "Brew it", "behavior": "Brew", "prompt": "You are an actor zzz", "response": "Step 1.",
             "jailbroken": True},
            {"index": 1, "goal": "Wake it", "behavior": "Wake", "prompt": None, "response": None, "jailbroken": False},
        ],
    }  # fmt: skip
    found = read_responses(write(tmp_path / "artifact.json", artifact), label="jailbroken")
    assert pairs(found.responses) == [("Brew it", "Step 1."), ("Wake it", "")]
    assert [one.labels["jailbroken"] for one in found.responses] == [True, False]
    assert found.asked_about == ("goal",)


def test_tables_are_read_as_they_are_everywhere(tmp_path):
    """Cells over 128 KiB; a row with more cells than the header; a column twice; semicolons; tabs."""
    long = "word " * 60_000
    (one,) = read_responses(write(tmp_path / "a.csv", f'prompt,response\nrequest,"{long}"\n')).responses
    assert one.text == long
    for content, message in (
        ("prompt,response\nfeed it,Step 1.\nfeed it,Well, Sorry\n", "line 3: expected 2 cells .*, found 3; fix: quote"),
        ("prompt,response\nfeed it\n", "line 2: expected 2 cells as in the header, found 1"),
        ("prompt,response,response\na,b,c\n", "line 1: expected every column once, found response more than once"),
        ("prompt;response\na;b\n", "line 1: expected columns separated by commas, found semicolons; fix: save it"),
        ("prompt\tresponse\na\tb\n", r"line 1: .*separated by commas, found tabs; fix: name the file \*.tsv"),
    ):
        with pytest.raises(InputError, match=message):
            read_responses(write(tmp_path / "a.csv", content))
    (one,) = read_responses(write(tmp_path / "a.tsv", "prompt\tresponse\nfeed it\tWell, Sorry\n")).responses
    assert (written(one.request), one.text) == ("feed it", "Well, Sorry")


@pytest.mark.parametrize(
    "content", ['[{"id": null, "response": "a"}, {"id": null, "response": "b"}]', "id,response\n,a\n,b\n"]
)
def test_no_id_is_not_the_same_id(tmp_path, content):
    name = "a.json" if content.startswith("[") else "a.csv"
    assert [one.id for one in read_responses(write(tmp_path / name, content)).responses] == ["0", "1"]
    # A given id may look like the number of an entry without one.
    records = [{"response": "a"}, {"id": 0, "response": "b"}]
    assert len(read_responses(write(tmp_path / "a.json", records)).responses) == 2


def test_conversations_hold_request_and_response(tmp_path):
    records = [
        {"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "In the tower."}]},
        {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In the tower."}]},
        {"prompt": [{"role": "user", "content": "Where?"}], "response": "In the tower."},
        {"prompt": "\n\nHuman: Where?\n\nAssistant: (asleep)", "response": "In the tower."},
    ]
    assert pairs(read_responses(write(tmp_path / "a.json", records)).responses) == [("Where?", "In the tower.")] * 4


def test_wildjailbreak_is_judged_by_what_was_wanted(tmp_path):
    content = (
        "vanilla\tadversarial\tcompletion\tdata_type\nfeed it\tYou are a bard. feed it\tNo.\tadversarial_harmful\n"
    )
    assert pairs(read_responses(write(tmp_path / "a.tsv", content)).responses) == [("feed it", "No.")]
    content = "adversarial\tcompletion\tvanilla\nYou are a bard. feed it\tNo.\t\n"
    assert pairs(read_responses(write(tmp_path / "a.tsv", content)).responses) == [("You are a bard. feed it", "No.")]


def test_a_context_goes_with_its_behaviour(tmp_path):
    records = [{"behavior": "say where", "context": " The note. ", "generation": "There."}]
    (one,) = read_responses(write(tmp_path / "a.jsonl", json_lines(records))).responses
    assert (one.context, context_of(one.as_response().row)) == ("The note.", "The note.")
