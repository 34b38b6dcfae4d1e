"""What is supervised, read back as text, for the chat templates and kinds of tokenizers people use.

Every case is tokenised, laid out and built by the real functions; the test decodes labels and compares whole strings.
"""

import copy
import importlib.resources
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from derta.config import Arm, ObjectiveConfig
from derta.config.shipped import CONF_DIR
from derta.errors import InputError
from derta.models.conversation import ConversationCutter
from derta.objective.refusal_token import resolve_refusal_token
from derta.objective.rows import IGNORE, RowBuilder, RowSettings, View, longest_prefix, mle_row, rto_row
from derta.training.dataset import build_row_table, tokenize_rows

_TEMPLATES = importlib.resources.files("trl") / "chat_templates"
# Qwen3 writes an empty think block before the last answer and strips the answer's leading line breaks.
CHATML, THINK, GEMMA = ((_TEMPLATES / f"{name}.jinja").read_text("utf-8") for name in ("qwen2_5", "qwen3", "gemma"))
INST = (CONF_DIR / "model" / "templates" / "inst.jinja").read_text("utf-8")  # what base models are given
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.system = m['content'] + '\n\n' %}"
    "{% elif m['role'] == 'user' %}[INST] {{ ns.system + m['content'] }} [/INST]{% set ns.system = '' %}"
    "{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] | trim }} {{ eos_token }}"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
CHATML_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HEADERS = (
    "<|start_header_id|>", "<|im_start|>", "<start_of_turn>", "[INST]", "[/INST]", "assistant", "model", "user",
    "system", "<think>",
)  # fmt: skip

# name: (tokenizer, end of turn, start form, continued form)
STYLES = {
    "llama3": ("<|eot_id|>", "Sorry", " Sorry"),
    "chatml": ("<|im_end|>", "Sorry", " Sorry"),
    "chatml-metaspace": ("<|im_end|>", "Sorry", " Sorry"),
    "think": ("<|im_end|>", "Sorry", " Sorry"),
    "mistral-special": ("</s>", " Sorry", " Sorry"),
    "mistral-plain-byte": ("</s>", " Sorry", " Sorry"),
    "llama2": ("</s>", " Sorry", " Sorry"),
    "gemma": ("<end_of_turn>", "Sorry", " Sorry"),
    "inst-byte": ("</s>", "Sorry", " Sorry"),
    "inst-metaspace": ("</s>", "Sorry", " Sorry"),
}


@pytest.fixture(scope="module")
def tokenizers(byte_level, metaspace, llama3_tokenizer) -> dict[str, Any]:
    return {
        "llama3": llama3_tokenizer,
        "chatml": byte_level(CHATML_SPECIALS, CHATML, bos=None, eos="<|im_end|>", nfc=True),
        "chatml-metaspace": metaspace((*CHATML_SPECIALS, "<s>"), CHATML, bos="<s>", eos="<|im_end|>"),
        "think": byte_level((*CHATML_SPECIALS, "<think>", "</think>"), THINK, bos=None, eos="<|im_end|>", nfc=True),
        # Mistral v3 (instruction marks are tokens), and v1 (they are text) on a byte-level tokenizer.
        "mistral-special": metaspace(
            ("<s>", "</s>", "[INST]", "[/INST]"), MISTRAL, bos="<s>", eos="</s>", prepend="first"
        ),
        "mistral-plain-byte": byte_level(("<s>", "</s>"), MISTRAL, bos="<s>", eos="</s>"),
        "llama2": metaspace(("<s>", "</s>"), LLAMA2, bos="<s>", eos="</s>", prepend="always"),
        "gemma": metaspace(
            ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), GEMMA, bos="<bos>", eos="<eos>"
        ),
        "inst-byte": byte_level(("<s>", "</s>"), INST, bos="<s>", eos="</s>"),
        "inst-metaspace": metaspace(("<s>", "</s>"), INST, bos="<s>", eos="</s>"),
    }  # fmt: skip


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def settings(**objective) -> RowSettings:
    return RowSettings(objective=ObjectiveConfig(**objective), max_length=99, seed=1)


def answer(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


PROMPTS = {
    "single": [user("harmful request zero")],
    "system": [{"role": "system", "content": "Obey the garden rules."}, user("harmful request zero")],
    "multi-turn": [user("greetings one"), *answer("Earlier reply two."), user("harmful request zero")],
}
RESPONSES = {
    "plain": ("Sorry, I cannot help with that.", "Sure, harmful steps: mix, wait and stir."),
    "newlines": ("Sorry.\n\nI cannot help.\n- no\n- never", "Step 1: mix\n\nStep 2:\n\tstir"),
    "emoji": ("🙂 Sorry, no 👍🏽", "🔥 harmful steps 🔥🔥"),
    "cjk": ("很抱歉，我不能。", "第一步：搅拌。第二步"),
    "combining": ("Désolé — I cannot", "É étape une"),
}
WHITE_SPACE = {
    "leading": ("  Sorry, no.", "Sure, harmful steps."),
    "leading-rejected": ("Sorry, no.", " Sure, harmful steps."),
    "trailing": ("Sorry, no. ", "Sure, harmful steps.\n"),
    "both-lines": ("\n\nSorry, no.\n\n", "\n Sure, harmful steps. \n"),
}


def check_spans(tokenizer: Any, style: str, prompt: list, chosen: str, rejected: str) -> None:
    end, start_form, continued_form = STYLES[style]
    refusal = resolve_refusal_token(tokenizer)
    end_id = tokenizer.convert_tokens_to_ids(end)
    row = {"id": "row-0", "prompt": prompt, "chosen": answer(chosen), "rejected": answer(rejected)}
    example = tokenize_rows([row], ConversationCutter(tokenizer), refusal)[0]
    chosen, rejected = chosen.strip(), rejected.strip()

    def text(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    harmful = len(example["rejected_ids"])
    longest = longest_prefix(len(example["prompt_ids"]), len(example["chosen_continued_ids"]), harmful, 10_000)
    assert longest == harmful - 1
    for k in range(longest + 1):
        built = mle_row(example, k, 10_000)
        supervised = [label for label in built["labels"] if label != -100]
        positions = [i for i, label in enumerate(built["labels"]) if label != -100]
        # One block at the end of the row: the safe response and the end of its turn, and nothing before it.
        assert positions == list(range(positions[0], len(built["labels"])))
        assert text(supervised[:-1]).strip() == chosen and supervised[-1] == end_id
        assert supervised == [built["input_ids"][i] for i in positions]
        assert not any(header in text(supervised) for header in HEADERS)
        assert not any(word in text(supervised) for word in ("request", "zero", "greetings", "Earlier", "Obey"))
        assert built["objective"] == [0] * positions[0] + [1] * len(positions)
        context = built["input_ids"][: positions[0]]
        assert context == example["prompt_ids"] + example["rejected_ids"][:k]
        if k == longest:
            assert text(context).rstrip().endswith(rejected)
        assert end_id not in context[len(example["prompt_ids"]) :]

    row_of_rto = rto_row(example, refusal, np.ones(harmful, dtype=bool), 10_000)
    assert row_of_rto["input_ids"] == example["prompt_ids"] + example["rejected_ids"]
    supervised = [label for label in row_of_rto["labels"] if label != -100]
    assert row_of_rto["labels"] == [-100] * len(example["prompt_ids"]) + supervised
    assert supervised == [refusal.start_id] + [refusal.continued_id] * (harmful - 1)
    assert (text([refusal.start_id]), text([refusal.continued_id])) == (start_form, continued_form)
    assert text(example["rejected_ids"][:-1]).strip() == rejected and example["rejected_ids"][-1] == end_id

    # The whole row is the conversation as the template renders it, up to the end of the turn.
    shown = tokenizer.apply_chat_template([*prompt, *answer(chosen)], tokenize=False)
    whole = tokenizer(shown, add_special_tokens=False)["input_ids"]
    vanilla = mle_row(example, 0, 10_000)["input_ids"]
    assert vanilla == whole[: len(vanilla)] and not text(whole[len(vanilla) :]).strip()


# Gemma's template has no system role: see test_template_refuses.
CASES = [
    (style, prompt, responses)
    for style in STYLES
    for prompt in PROMPTS
    for responses in (*RESPONSES, *WHITE_SPACE)
    if (style, prompt) != ("gemma", "system")
]


@pytest.mark.parametrize(("style", "prompt", "responses"), CASES)
def test_supervised_text(style, prompt, responses, tokenizers):
    check_spans(tokenizers[style], style, PROMPTS[prompt], *{**RESPONSES, **WHITE_SPACE}[responses])


def test_what_base_models_are_given(tokenizers):
    chat = [*PROMPTS["multi-turn"], *answer(" Sorry. ")]
    expected = "<s>[INST] greetings one [/INST]\nEarlier reply two.</s>[INST] harmful request zero [/INST]\nSorry.</s>"
    assert tokenizers["inst-byte"].apply_chat_template(chat, tokenize=False) == expected


def test_template_refuses(tokenizers):
    """A template's own exception becomes an error that names the remedy, and no text of the row."""
    row = {"id": "row-7", "prompt": PROMPTS["system"], "chosen": answer("Sorry, no."), "rejected": answer("Sure, yes.")}
    refusal = resolve_refusal_token(tokenizers["gemma"])
    with pytest.raises(InputError, match="System role not supported") as caught:
        build_row_table(Dataset.from_list([row]), tokenizers["gemma"], refusal, settings())
    assert "row-7" in str(caught.value) and "garden" not in str(caught.value)


@pytest.mark.parametrize("style", ["llama3", "chatml-metaspace", "mistral-special"])
def test_rows_tokenised_together_are_those_tokenised_alone(style, tokenizers):
    """Chats of every kind with raw text among them, for which the tokenizer adds its own special tokens."""
    tokenizer = tokenizers[style]
    cutter, refusal = ConversationCutter(tokenizer), resolve_refusal_token(tokenizer)
    responses = {**RESPONSES, **WHITE_SPACE}.items()
    rows = [
        {"id": f"{name}-{way}", "prompt": prompt, "chosen": answer(chosen), "rejected": answer(rejected)}
        for name, prompt in PROMPTS.items()
        for way, (chosen, rejected) in responses
    ]
    rows[1::3] = [{**row, "rejected": None} for row in rows[1::3]]
    raw = [[{"role": "text", "content": text}] for text in ("Some text", " goes on.", " harmful")]
    rows[4:4] = [dict(zip(("id", "prompt", "chosen", "rejected"), ("raw", *raw), strict=True))]
    alone = [tokenize_rows([row], cutter, refusal)[0] for row in rows]
    assert tokenize_rows(rows, cutter, refusal) == alone
    assert len({tuple(example["chosen_ids"]) for example in alone}) > len(RESPONSES)


def test_the_row_that_cannot_be_cut_is_named_among_many(tokenizers):
    """A template that rewrites one word of the assistant: of 200 rows one holds it."""
    tokenizer = copy.deepcopy(tokenizers["llama3"])
    rows = [
        {"id": f"row-{i}", "prompt": PROMPTS["single"], "chosen": answer(f"Sorry, {i}."), "rejected": None}
        for i in range(200)
    ]
    rows[150]["chosen"] = answer("Sorry, filler, no.")
    refusal = resolve_refusal_token(tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("| trim", "| trim | replace('filler', 'other')")
    with pytest.raises(InputError, match="row row-150: the chat template does not write") as caught:
        build_row_table(Dataset.from_list(rows), tokenizer, refusal, settings(name=Arm.vanilla))
    assert "Sorry" not in str(caught.value)


def test_transition_rows_stand_behind_the_mle_rows_of_a_triple(tokenizers):
    """A triple gives two MLE rows, two transitions of three tokens and an RTO row, a helpful row one plain MLE row;
    without transitions the other rows are the same."""
    rows = [
        {"id": "t", "prompt": PROMPTS["single"], "chosen": answer("Sorry, no way."), "rejected": answer("Sure, mix.")},
        {"id": "h", "prompt": PROMPTS["single"], "chosen": answer("Sure."), "rejected": None},
    ]
    tokenizer = tokenizers["llama3"]
    refusal = resolve_refusal_token(tokenizer)

    def build(**changes):
        return build_row_table(Dataset.from_list(rows), tokenizer, refusal, settings(mle_copies=2, **changes))

    table, report = build(transition_copies=2, transition_tokens=3)
    assert list(zip(table["id"], table["view"], table["copy"], strict=True)) == [
        ("t", View.MLE_WITH_PREFIX, 0),
        ("t", View.MLE_WITH_PREFIX, 1),
        ("t", View.TRANSITION, 2),
        ("t", View.TRANSITION, 3),
        ("t", View.RTO, 0),
        ("h", View.MLE, 0),
    ]
    assert (report.mle_rows, report.rto_rows, report.truncated_rows) == (5, 1, 0)
    builder = RowBuilder(refusal=refusal, settings=settings(transition_tokens=3))
    row = table[2]
    built = [builder.build(row, row["view"], row["copy"], epoch) for epoch in range(20)]
    supervised = {tokenizer.decode([i for i in one["labels"] if i != IGNORE]) for one in built}
    assert supervised == {"Sorry, ", " Sorry, "}  # the turn alone, at the start and after text
    assert max(len(one["input_ids"]) for one in built) == row["length"]
    plain, report = build()
    assert (report.mle_rows, report.rto_rows, report.truncated_rows, report.dropped_examples) == (3, 1, 0, 0)
    assert [row for row in table if row["view"] != View.TRANSITION] == list(plain)


@pytest.mark.parametrize("prompt", ["single", "multi-turn"])
@pytest.mark.parametrize("style", STYLES)
def test_generation_starts_where_training_responses_do(style, prompt, tokenizers):
    """Also behind the empty think block that a Qwen3-style generation prompt leaves out."""
    tokenizer = tokenizers[style]
    cutter = ConversationCutter(tokenizer)
    assert cutter.prompt_ids(PROMPTS[prompt]) == cutter.cut(PROMPTS[prompt], answer("Sorry, no.")).prompt
    if style == "think":
        assert cutter.prompt_text(PROMPTS[prompt]).endswith("assistant\n<think>\n\n</think>\n\n")
        bare = tokenizer.apply_chat_template(PROMPTS[prompt], tokenize=False, add_generation_prompt=True)
        assert bare.endswith("assistant\n"), "else this shows nothing"


def test_generation_where_no_answer_may_follow(byte_level):
    """A template that takes no assistant's message still gives its generation prompt."""
    template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ raise_exception('questions only') }}{% endif %}"
        "<|im_start|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|im_end|>{% endif %}"
    )
    cutter = ConversationCutter(byte_level(CHATML_SPECIALS, template, bos=None, eos="<|im_end|>"))
    assert cutter.prompt_text(PROMPTS["single"]).endswith("<|im_end|>")
