import pytest

from derta.config.attacks import (
    AttackConfig,
    AutoDANConfig,
    ChatModelConfig,
    DecodingConfig,
    GCGConfig,
    PairConfig,
)
from derta.errors import InputError
from derta.evaluation.attacks.build import build_attack, build_attacks
from derta.miniature.formats import Format, decode_prompt

PLAIN_ROW = {
    "id": "row-1",
    "source": "test",
    "kind": "safety",
    "prompt": [{"role": "user", "content": "harmful request 3"}],
    "chosen": [{"role": "assistant", "content": "Sorry, I can not help."}],
    "rejected": [{"role": "assistant", "content": "harmful steps 3"}],
}


def full_text(target, item):
    return target.tokenizer.decode(list(item.token_ids))


def test_direct_is_the_prompt_as_the_template_writes_it(target, harmful_rows):
    made = build_attack("direct").inputs(harmful_rows, target, "harmful")
    assert [item.row_id for item in made.inputs] == [row["id"] for row in harmful_rows]
    for item, row in zip(made.inputs, harmful_rows, strict=True):
        assert full_text(target, item) == f"<|user|>{row['prompt'][0]['content']}<|assistant|>"
        assert item.prefill_tokens == 0


@pytest.mark.parametrize("depth", [1, 5, 20, 40])
def test_prefill_is_exactly_the_first_tokens_of_the_harmful_response(target, harmful_rows, depth):
    made = build_attack(f"prefill_{depth}").inputs(harmful_rows, target, "harmful")
    assert len(made.inputs) == len(harmful_rows)
    for item, row in zip(made.inputs, harmful_rows, strict=True):
        assert item.prefill_tokens == depth
        prompt, prefill = item.token_ids[:-depth], item.token_ids[-depth:]
        assert target.tokenizer.decode(list(prompt)).endswith("<|assistant|>")
        # The same tokens the whole conversation has: the model would have written them itself.
        text = target.tokenizer.apply_chat_template([*row["prompt"], *row["rejected"]], tokenize=False)
        whole = target.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert whole[: len(item.token_ids)] == list(item.token_ids)
        assert row["rejected"][0]["content"].startswith(target.decode(prefill))


def test_benign_rows_are_prefilled_with_their_helpful_response(target, benign_rows, harmful_rows):
    made = build_attack("prefill_5").inputs(benign_rows, target, "benign")
    for item, row in zip(made.inputs, benign_rows, strict=True):
        assert row["chosen"][0]["content"].startswith(target.decode(item.token_ids[-5:]))
    # One that would be given whole is skipped.
    made = build_attack("prefill_500").inputs(harmful_rows, target, "harmful")
    assert made.inputs == []
    assert made.skipped == {row["id"]: "response not longer than 500 tokens" for row in harmful_rows}


@pytest.mark.parametrize("disguise", [f for f in Format if f is not Format.CHAT])
def test_disguises_hold_the_query_and_can_be_undone(target, harmful_rows, disguise):
    made = build_attack(disguise.value).inputs(harmful_rows, target, "harmful")
    for item, row in zip(made.inputs, harmful_rows, strict=True):
        text = full_text(target, item)
        templated = disguise is not Format.COMPLETION
        assert text.endswith("<|assistant|>") is templated
        content = text.removeprefix("<|user|>").removesuffix("<|assistant|>")
        query = row["prompt"][0]["content"]
        assert content != query
        assert decode_prompt([{"role": "user", "content": content}], disguise) == query


def test_disguises_name_the_row_that_is_no_query_and_not_its_text(target):
    with pytest.raises(InputError, match="row row-1") as error:
        build_attack("code").inputs([PLAIN_ROW], target, "harmful")
    assert "request 3" not in str(error.value)


@pytest.mark.parametrize("name", ["prefill", "prefill_0", "prefill_x", "chat", "jailbreak"])
def test_unknown_attacks_are_refused_with_the_names_there_are(name):
    with pytest.raises(InputError, match="role_play"):
        build_attack(name)


def test_every_attack_that_cannot_be_used_is_named():
    with pytest.raises(InputError) as caught:
        build_attacks(["direct", "direkt", "prefill_x", "role_play_file_none", "direkt"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "these attacks cannot be used:" and len(lines) == 4
    assert all(name in line for name, line in zip(("direkt", "prefill_x", "none.txt"), lines[1:], strict=True))
    assert list(build_attacks(["direct", "prefill_5", "direct"])) == ["direct", "prefill_5"]
    with pytest.raises(InputError, match="^attack 'direkt' does not exist"):
        build_attacks(["direkt"])


OTHER = ChatModelConfig(kind="miniature")


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (
            AttackConfig(target=" ", gcg=GCGConfig(steps=0, top_k=0, initial=" ")),
            ["target", "gcg.steps=0", "gcg.top_k=0", "gcg.initial"],
        ),
        (
            AttackConfig(autodan=AutoDANConfig(steps=0, population=1, elites=1.5, word_steps=-1, mutator=OTHER)),
            ["autodan.steps=0", "autodan.population=1", "autodan.elites=1.5", "autodan.word_steps=-1",
             "autodan.mutator.kind=miniature"],
        ),
        (
            AttackConfig(pair=PairConfig(
                streams=0, retries=-1, judge=OTHER,
                attacker=ChatModelConfig(kind="local", temperature=-1.0, top_p=2.0),
            )),
            ["pair.streams=0", "pair.retries=-1", "pair.attacker.model.name_or_path", "pair.attacker.temperature",
             "pair.attacker.top_p=2.0", "pair.judge.kind=miniature"],
        ),
        (
            AttackConfig(decoding=DecodingConfig(temperatures=[0.0, 1.0], top_p=[0.5, 1.5], samples=0)),
            ["decoding.temperatures=[0.0,1.0]", "decoding.top_p=[0.5,1.5]", "decoding.samples=0"],
        ),
        (
            AttackConfig(decoding=DecodingConfig(top_p=[0.5, 0.5])),
            ["decoding.top_p=[0.5,0.5]: name each value once"],
        ),
        (AttackConfig(), []),
    ],
)  # fmt: skip
def test_settings_of_attacks_that_cannot_be_used_are_named(config, keys):
    problems = config.problems("eval.attack")
    assert bool(problems) is bool(keys)
    assert [key for key in keys if f"eval.attack.{key}" not in " ".join(problems)] == []
