"""Every disguise says the query, moves a model that is weak to it, and does nothing to one that always refuses."""

import json
import re

import pytest
from bag_model import outcomes, weak_to

from derta.config.attacks import AttackConfig
from derta.errors import InputError
from derta.evaluation.attacks.attack import Direct
from derta.evaluation.attacks.build import build_attack
from derta.evaluation.attacks.disguises import read_templates
from derta.evaluation.records import Outcome

NAMES = [
    "code_attack",
    "self_cipher",
    "reinserted_header",
    "completion_text",
    *(f"role_play_file_{name}" for name in read_templates()),
]


def texts_of(name, rows, target):
    made = build_attack(name).inputs(rows, target, "harmful")
    assert [item.row_id for item in made.inputs] == [row["id"] for row in rows]
    assert {item.attack for item in made.inputs} == {name} and made.skipped == {}
    return [target.tokenizer.decode(list(item.token_ids)) for item in made.inputs]


@pytest.mark.parametrize("name", NAMES)
def test_a_disguise_moves_a_weak_model_and_not_one_that_always_refuses(name, plain_rows, refusing):
    attack = build_attack(name)
    weak = weak_to(attack, plain_rows, refusing, Direct())
    assert outcomes(Direct(), plain_rows, weak) == [Outcome.REFUSED] * 3
    assert outcomes(attack, plain_rows, weak) == [Outcome.COMPLIED] * 3
    assert outcomes(attack, plain_rows, refusing) == [Outcome.REFUSED] * 3


def test_code_attack_pushes_the_words_so_that_popping_reads_the_query(plain_rows, refusing):
    rows = [{**plain_rows[0], "prompt": [{"role": "user", "content": 'Say "harmful\\request" {query}\nin full'}]}]
    for text, row in zip(texts_of("code_attack", rows, refusing), rows, strict=True):
        stack = [json.loads(found) for found in re.findall(r"stack\.append\((.*)\)\n", text)]
        assert " ".join(stack.pop() for _ in range(len(stack))) == " ".join(row["prompt"][0]["content"].split())
        code = re.search(r"```python\n(.*)```", text, re.DOTALL)[1]
        compile(code, "code", "exec")  # the code is whole but for the paragraphs


@pytest.mark.parametrize("name", ["self_cipher", "role_play_file", "role_play_file_two_actors"])
def test_texts_hold_the_query_once_and_as_it_is(name, plain_rows, refusing):
    rows = [{**row, "prompt": [{"role": "user", "content": f"{{query}} {{0}} {row['id']}"}]} for row in plain_rows]
    for text, row in zip(texts_of(name, rows, refusing), rows, strict=True):
        assert text.count(row["prompt"][0]["content"]) == 1
        assert text.startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>")


def test_system_prompt_and_earlier_turns_stay(plain_rows, refusing):
    earlier = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "helpful answer"},
    ]
    rows = [{**row, "prompt": [*earlier, *row["prompt"]]} for row in plain_rows]
    for name in ("code_attack", "reinserted_header"):
        for text in texts_of(name, rows, refusing):
            assert [text.count(message["content"]) for message in earlier] == [1, 1, 1]
    assert not any("Be brief." in text for text in texts_of("completion_text", rows, refusing))


def test_reinserted_header_is_that_of_the_template(plain_rows, refusing, monkeypatch):
    header = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
    start = refusing.tokenizer.convert_tokens_to_ids("<|start_header_id|>")
    made = build_attack("reinserted_header").inputs(plain_rows, refusing, "harmful")
    for item, row in zip(made.inputs, plain_rows, strict=True):
        text = refusing.tokenizer.decode(list(item.token_ids))
        assert text.endswith(f"{row['prompt'][0]['content']}{header}{header}\n\n")  # the template trims what is inside
        assert item.token_ids.count(start) == 3  # as special tokens, not as letters
    monkeypatch.setattr(refusing.tokenizer, "chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(InputError, match="no header"):
        build_attack("reinserted_header").inputs(plain_rows, refusing, "harmful")


def test_completion_text_has_no_markup_and_other_disguises_need_a_message(plain_rows, refusing):
    for text, row in zip(texts_of("completion_text", plain_rows, refusing), plain_rows, strict=True):
        assert text.removeprefix("<|begin_of_text|>") == row["prompt"][0]["content"] + "\n"
    raw = {**plain_rows[0], "prompt": [{"role": "text", "content": "harmful request 1:"}]}
    made = build_attack("code_attack").inputs([raw], refusing, "harmful")
    assert made.inputs == [] and list(made.skipped) == ["row-0"] and "raw text" in made.skipped["row-0"]
    assert texts_of("completion_text", [raw], refusing)[0].endswith("harmful request 1:")


def test_a_tokenizer_without_template_is_refused(plain_rows, refusing, monkeypatch):
    monkeypatch.setattr(refusing.tokenizer, "chat_template", None)
    for name in {"direct", "prefill_5", "decoding", "role_play_file", *NAMES} - {"completion_text"}:
        with pytest.raises(InputError, match="chat template"):
            build_attack(name).inputs(plain_rows, refusing, "harmful")
    assert build_attack("completion_text").inputs(plain_rows, refusing, "harmful").inputs


def test_role_play_draws_a_template_by_the_row_and_not_by_its_place(plain_rows, refusing):
    rows = [{**plain_rows[0], "id": f"row-{i}"} for i in range(24)]
    drawn = texts_of("role_play_file", rows, refusing)
    assert texts_of("role_play_file", rows[::-1], refusing) == drawn[::-1]
    alone = {texts_of(f"role_play_file_{name}", rows[:1], refusing)[0] for name in read_templates()}
    assert set(drawn) == alone and len(alone) == 3


def test_own_templates_and_what_is_wrong_with_them(tmp_path, plain_rows, refusing):
    (tmp_path / "mine.txt").write_text("My own frame: {query}\n")
    config = AttackConfig(templates=str(tmp_path))
    made = build_attack("role_play_file_mine", config)
    text = refusing.tokenizer.decode(list(made.inputs(plain_rows, refusing, "harmful").inputs[0].token_ids))
    assert "My own frame: harmful request 0 about the garden<|eot_id|>" in text
    other = made.settings
    (tmp_path / "mine.txt").write_text("Another frame: {query}")
    assert build_attack("role_play_file_mine", config).settings != other  # part of what an evaluation is told by
    with pytest.raises(InputError, match="no template two_actors.txt; the templates are mine"):
        build_attack("role_play_file_two_actors", config)
    (tmp_path / "a.txt").write_text("no slot")
    (tmp_path / "b.txt").write_text("{query} {query}")
    (tmp_path / "c d.txt").write_text("{query}")
    (tmp_path / "e.txt").write_bytes(b"\xff{query}")
    with pytest.raises(InputError) as error:
        build_attack("role_play_file", config)
    assert [line.split(":")[0].strip(" -") for line in str(error.value).splitlines()[1:]] == [
        "a.txt", "b.txt", "c d.txt", f"{tmp_path}/e.txt, line 1"
    ]  # fmt: skip
    with pytest.raises(InputError, match="found none"):
        read_templates(str(tmp_path / "nowhere"))
