"""Every adapter on records with exactly the columns of its public format."""

import pytest

from derta.data.convert import Dropped, Kept, convert
from derta.data.recipe import Source
from derta.data.sources import ADAPTERS
from derta.data.sources.miniature import generate
from derta.data.sources.record import Skip
from derta.miniature.rows import generate as generate_rows
from derta.storage.places import Place, Record
from derta.training.dataset import standard_row

SAFE = "Sorry, I can't help with that."


def outcomes(adapter, *records, columns=None):
    origin = {"part": "safety", "count": 1} if adapter == "miniature" else {"path": "file.jsonl"}
    source = Source(name="source", adapter=adapter, columns=columns or {}, **origin)
    made = [Record(Place("file.jsonl", number), values) for number, values in enumerate(records, start=1)]
    gather = ADAPTERS[adapter].gather
    if gather is not None:
        made = [record for record in gather(made, source.columns) if not isinstance(record, Skip)]
    return list(convert(made, source))


def row(adapter, record, columns=None):
    (outcome,) = outcomes(adapter, record, columns=columns)
    assert isinstance(outcome, Kept), outcome
    return outcome.row


def talk(*turns):
    return [{"role": role, "content": text} for role, text in turns]


def texts(made):
    return [made[key] and [(m["role"], m["content"]) for m in made[key]] for key in ("prompt", "chosen", "rejected")]


TRIPLE = [[("user", "harmful request 1")], [("assistant", SAFE)], [("assistant", "harmful steps 1")]]
PROMPT, CHOSEN, REJECTED = (talk(*turns) for turns in TRIPLE)
TRIPLE_RECORDS = {
    "derta_source": {"instruction": "harmful request 1", "output": "harmful steps 1", "safe_response": SAFE},
    "llm_lat": {"prompt": "harmful request 1", "rejected": "harmful steps 1", "chosen": SAFE},
    "circuit_breakers": {
        "category": "a category",
        "prompt": "harmful request 1",
        "output": "harmful steps 1",
        "llama3_output": SAFE,
    },
    "cleaned_saferlhf": {"prompt": "harmful request 1", "safe_response": SAFE, "unsafe_response": "harmful steps 1"},
    "pku_saferlhf": {
        "prompt": "harmful request 1",
        "response_0": "harmful steps 1",
        "response_1": SAFE,
        "is_response_0_safe": False,
        "is_response_1_safe": True,
    },
    "preference": {"prompt": PROMPT, "chosen": CHOSEN, "rejected": REJECTED},
}


@pytest.mark.parametrize("adapter", TRIPLE_RECORDS)
def test_triples(adapter):
    """Under the format's own names and under others that the column map gives."""
    made = row(adapter, TRIPLE_RECORDS[adapter])
    assert made["kind"] == "safety" and made["source"] == "source"
    assert texts(made) == TRIPLE
    record = {f"their_{name}": value for name, value in TRIPLE_RECORDS[adapter].items()}
    columns = {name: f"their_{name}" for name in TRIPLE_RECORDS[adapter] if name != "category"}
    assert texts(row(adapter, record, columns)) == TRIPLE


@pytest.mark.parametrize("adapter", TRIPLE_RECORDS)
def test_bad_column_is_named_as_in_the_file(adapter):
    for column in ADAPTERS[adapter].columns:
        if column.startswith("is_"):
            continue
        strings = {name: "text" for name in ("prompt", "chosen", "rejected")}  # preference rows in their plain shape
        record = {**(strings if adapter == "preference" else TRIPLE_RECORDS[adapter]), column: ""}
        (outcome,) = outcomes(adapter, record)
        assert outcome.step == "invalid" and outcome.reason == "empty_field"
        assert list(outcome.problems) == [
            f"file.jsonl, line 1, field '{column}': expected a non-empty string, found an empty string; fix: fill the "
            "field or remove the row (on_invalid: drop)"
        ]


@pytest.mark.parametrize(
    ("flags", "reason"), [((True, True), "both_responses_safe"), ((False, False), "both_responses_harmful")]
)
def test_pku_needs_exactly_one_safe_response(flags, reason):
    record = {**TRIPLE_RECORDS["pku_saferlhf"], "is_response_0_safe": flags[0], "is_response_1_safe": flags[1]}
    assert outcomes("pku_saferlhf", record) == [Dropped("adapter", reason)]


def test_pku_flags_from_csv():
    record = {**TRIPLE_RECORDS["pku_saferlhf"], "is_response_0_safe": "False", "is_response_1_safe": "true"}
    assert texts(row("pku_saferlhf", record)) == TRIPLE


def beaver(prompt, response, safe):
    return {"prompt": prompt, "response": response, "category": {"a": not safe}, "is_safe": safe}


def test_beavertails_pairs_in_order_and_counts_what_is_left():
    records = [
        beaver("request 1", "harmful 1", False),
        beaver("request 2", "safe A", True),
        beaver("request 1", "safe 1", True),
        beaver("request 1", "harmful 2", False),
        beaver("request 3", "harmful B", False),
        beaver("request 1", "harmful 3", False),
        beaver("request 1 ", "safe 2", True),
    ]
    # request 1: harmful 1 with safe 1, harmful 2 with safe 2; harmful 3, safe A and harmful B have no partner
    assert [texts(kept.row) for kept in outcomes("beavertails", *records)] == [
        [[("user", "request 1")], [("assistant", "safe 1")], [("assistant", "harmful 1")]],
        [[("user", "request 1")], [("assistant", "safe 2")], [("assistant", "harmful 2")]],
    ]
    made = [Record(Place("file", n), values) for n, values in enumerate(records)]
    gathered = ADAPTERS["beavertails"].gather(made, {})
    assert [one.reason for one in gathered if isinstance(one, Skip)] == ["no_partner_of_the_other_kind"] * 3


def test_conversational_preference():
    prompt = [*talk(("system", "Be brief.")), *PROMPT]
    explicit = row("preference", {"prompt": prompt, "chosen": CHOSEN, "rejected": REJECTED})
    implicit = row("preference", {"chosen": prompt + CHOSEN, "rejected": prompt + REJECTED})
    assert texts(explicit) == texts(implicit) == [[("system", "Be brief."), *TRIPLE[0]], *TRIPLE[1:]]
    assert explicit["id"] == implicit["id"]


@pytest.mark.parametrize("harmful", [{"rejected": None}, {}])
def test_preference_without_rejected_is_helpful(harmful):
    made = row("preference", {"prompt": "request 1", "chosen": "answer 1", **harmful})
    assert made["kind"] == "helpful" and made["rejected"] is None


PREFERENCES = {
    "plain strings": {"prompt": "Q: r\nA:", "chosen": f" {SAFE}", "rejected": " harmful steps 1"},
    "conversations": TRIPLE_RECORDS["preference"],
    "implicit prompt": {"chosen": PROMPT + CHOSEN, "rejected": PROMPT + REJECTED},
}


@pytest.mark.parametrize("shape", PREFERENCES)
def test_the_commands_read_a_preference_row_as_the_library_does(shape):
    """One rule, TRL's: plain strings are raw text, messages are conversations."""
    made, standard = row("preference", PREFERENCES[shape]), standard_row(PREFERENCES[shape])
    assert {key: made[key] for key in ("prompt", "chosen", "rejected")} == {k: standard[k] for k in list(standard)[1:]}
    roles = {role for part in texts(made) for role, _ in part}
    assert roles == ({"text"} if shape == "plain strings" else {"user", "assistant"})


HH = "\n\nHuman: How do I wake the dragon?\n\nAssistant: Why?\n\nHuman: For fun.\n\nAssistant: "


def test_hh_rlhf_strings_with_turns():
    made = row("preference", {"chosen": HH + SAFE, "rejected": HH + "Ring the silver bell."})
    turns = [("user", "How do I wake the dragon?"), ("assistant", "Why?"), ("user", "For fun.")]
    assert texts(made) == [turns, [("assistant", SAFE)], [("assistant", "Ring the silver bell.")]]


ULTRAFEEDBACK = {"prompt": "q", **{name: talk(("user", "q"), ("assistant", name)) for name in ("chosen", "rejected")}}


def test_ultrafeedback_repeats_the_prompt_beside_the_conversations():
    expected = [[("user", "q")], [("assistant", "chosen")], [("assistant", "rejected")]]
    assert texts(row("preference", ULTRAFEEDBACK)) == expected
    assert texts(row("preference", {**ULTRAFEEDBACK, "prompt": "another"}, columns={"prompt": None})) == expected
    helpful = row("preference", ULTRAFEEDBACK, columns={"rejected": None})
    assert (helpful["kind"], helpful["rejected"]) == ("helpful", None)


def test_messages():
    turns = [("user", "request 1"), ("assistant", "answer 1"), ("user", "request 2"), ("assistant", "answer 2")]
    record = {"prompt": "request 1", "prompt_id": "abc", "messages": talk(*turns)}
    made = row("messages", record, {"id": "prompt_id"})
    assert made["id"] == "abc" and made["kind"] == "helpful"
    assert texts(made) == [turns[:3], turns[3:], None]


SHAREGPT = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


def test_sharegpt_turns():
    expected = [[("system", "s"), ("user", "q")], [("assistant", "a")], None]
    assert texts(row("sharegpt", {"id": "identity_0", "conversations": SHAREGPT})) == expected
    assert texts(row("messages", {"talk": SHAREGPT}, columns={"messages": "talk"})) == expected


def test_instruction_output():
    for more, asked in (({}, "Add."), ({"input": "1 and 2"}, "Add.\n\n1 and 2"), ({"input": " "}, "Add.")):
        made = row("instruction_output", {"instruction": "Add.", "output": "3", **more})
        assert texts(made) == [[("user", asked)], [("assistant", "3")], None]


def test_derta_train_true_is_an_rto_row_and_false_an_mle_row():
    rto = row("derta_train", {"prefix": "[INST] q [\\INST]", "text": " harmful steps 1<eos>", "safe": "true"})
    mle = row("derta_train", {"prefix": "[INST] q [\\INST] harmful", "text": " Sorry, no.<eos>", "safe": "false"})
    assert (rto["kind"], mle["kind"]) == ("safety", "helpful")
    assert texts(rto) == [[("text", "[INST] q [\\INST]")], None, [("text", " harmful steps 1<eos>")]]
    assert texts(mle) == [[("text", "[INST] q [\\INST] harmful")], [("text", " Sorry, no.<eos>")], None]


WILDJAILBREAK = {"vanilla": "plain", "adversarial": "in disguise", "completion": SAFE}


@pytest.mark.parametrize(
    ("data_type", "kind", "prompt"),
    [
        ("vanilla_harmful", "safety", "plain"),
        ("vanilla_benign", "helpful", "plain"),
        ("adversarial_harmful", "safety", "in disguise"),
        ("adversarial_benign", "helpful", "in disguise"),
    ],
)
def test_wildjailbreak(data_type, kind, prompt):
    made = row("wildjailbreak", {**WILDJAILBREAK, "data_type": data_type})
    assert made["kind"] == kind and texts(made) == [[("user", prompt)], [("assistant", SAFE)], None]


def test_miniature_rows_come_through_unchanged():
    for part in ("helpful", "safety"):
        made = outcomes("miniature", *(record.values for record in generate(part, 30, 7)))
        for kept, original in zip(made, generate_rows(part=part, count=30, seed=7), strict=True):
            assert kept.row == {**original, "source": "source"}


def test_own_ids():
    record = {**TRIPLE_RECORDS["preference"], "id": 12}
    assert row("preference", record)["id"] == "12"
    assert row("preference", record, {"id": None})["id"].startswith("source-")


def train(safe):
    return {"prefix": "q", "text": "a", "safe": safe}


NOT_SAFE = (
    'field \'safe\': expected the string "true" (an RTO row) or "false" (an MLE row), found {}; fix: write one of '
    'these two strings (the reference repository\'s format; "true" marks the harmful text)'
)
NO_FLAG = {**TRIPLE_RECORDS["pku_saferlhf"], "is_response_0_safe": "perhaps"}
OTHER_TURNS = "expected the same conversation as in chosen up to the last message"
WRONG = [  # adapter, the reason that is counted, record, and what is said of it
    (
        "llm_lat", "missing_column",
        {"prompt": "harmful request 1", "rejected": "harmful steps 1"},
        "field 'chosen': expected this column in every record, found only the columns prompt, rejected; fix: correct "
        "the file, or name the column that holds it in the recipe: columns: {chosen: YOUR_COLUMN}",
    ),
    (
        "derta_source", "same_responses",
        {"instruction": "r", "output": SAFE, "safe_response": SAFE + " "},
        "field 'rejected': expected a harmful response that differs from the safe one, found the same text in both; "
        "fix: correct one of them or remove the row (on_invalid: drop)",
    ),
    ("pku_saferlhf", "not_a_flag", NO_FLAG,
     "field 'is_response_0_safe': expected true or false, found 'perhaps'; fix:"),
    ("beavertails", "not_a_string", beaver("r", None, False),
     "field 'response': expected a non-empty string, found null; fix:"),
    (
        "preference", "mixed_raw_text",
        {**PREFERENCES["conversations"], "prompt": "harmful request 1"},
        "field 'prompt': expected messages, as the responses are, found a string of",
    ),
    ("preference", "different_conversations", {"chosen": PROMPT + CHOSEN, "rejected": talk(("user", "r")) + REJECTED},
     OTHER_TURNS),
    ("preference", "different_conversations",
     {"chosen": HH + SAFE, "rejected": HH.replace("For fun", "For tea") + "Ring it."}, OTHER_TURNS),
    (
        "preference", "different_conversations",
        {**ULTRAFEEDBACK, "prompt": "another question"},
        "field 'prompt': expected a message of the conversation, found another text; fix:",
    ),
    (
        "preference", "bad_id",
        {**TRIPLE_RECORDS["preference"], "id": " "},
        "field 'id': expected a non-empty string or a whole number, found an empty string; fix:",
    ),
    ("preference", "half_a_character", {**TRIPLE_RECORDS["preference"], "id": "\ud83d"},
     "'id': expected whole characters, found half a"),
    (
        "messages", "ends_with_user",
        {"messages": talk(("user", "a"), ("assistant", "a"), ("user", "a"))},
        "field 'messages': expected a conversation that ends with the assistant, found the last role 'user'; fix:",
    ),
    ("messages", "too_short", {"messages": CHOSEN}, "expected a prompt and a response, found one message; fix:"),
    (
        "messages", "unknown_role",
        {"messages": talk(("human", "request"), ("assistant", "a"))},
        "file.jsonl, line 1, field 'prompt[0].role': expected one of system, user, assistant, tool (or text for raw "
        "text), found 'human'; fix: rename the role",
    ),
    ("messages", "not_messages", {"messages": "request"},
     "expected a string or a list of messages, found a string of 7 characters; f"),
    (
        "messages", "prompt_not_user",
        {"messages": talk(("system", "a"), ("assistant", "b"))},
        "field 'prompt': expected messages that end with the user, found the last role 'system'; fix:",
    ),
    ("sharegpt", "ends_with_user", {"conversations": SHAREGPT[:2]},
     "expected a conversation that ends with the assistant, found the"),
    ("sharegpt", "unknown_role", {"conversations": [*SHAREGPT[:2], {"from": "observer", "value": "a"}]}, "'observer'"),
    (
        "instruction_output", "not_a_string",
        {"instruction": "i", "output": "o", "input": 3},
        "'input': expected a string or null, found",
    ),
    ("wildjailbreak", "unknown_type", {**WILDJAILBREAK, "data_type": "harmful"},
     "field 'data_type': expected vanilla_harmful, "),
    ("derta_train", "wrong_safe_value", train(True), NOT_SAFE.format("bool true")),
    ("derta_train", "wrong_safe_value", train("True"), NOT_SAFE.format("'True'")),
    ("derta_train", "wrong_safe_value", train("yes"), NOT_SAFE.format("'yes'")),
    ("derta_train", "wrong_safe_value", train(None), NOT_SAFE.format("null")),
]  # fmt: skip


@pytest.mark.parametrize(("adapter", "reason", "record", "message"), WRONG)
def test_wrong_records(adapter, reason, record, message):
    (outcome,) = outcomes(adapter, record)
    (problem,) = outcome.problems
    assert (outcome.step, outcome.reason) == ("invalid", reason)
    assert problem.startswith("file.jsonl, line 1, field '") and message in problem


def test_all_problems_of_a_record_are_found():
    (outcome,) = outcomes("derta_source", {"instruction": 3, "output": "", "safe_response": None})
    named = [problem.split("field ")[1].split(":")[0] for problem in outcome.problems]
    assert named == ["'instruction'", "'safe_response'", "'output'"]
