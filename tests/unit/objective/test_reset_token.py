"""The reset token: which one it is, and where it stands in the rows of the arms that teach it."""

from typing import Any

import pytest
from peft import LoraConfig

from derta.config import Arm, ObjectiveConfig
from derta.errors import InputError
from derta.models.conversation import ConversationCutter
from derta.objective.refusal_token import taught_refusal_token
from derta.objective.rows import RowBuilder, RowSettings, View
from derta.training.dataset import tokenize_rows

RESERVED = "<|reserved_special_token_1|>"
TEXTS = {"prompt": "request", "chosen": "Sorry, I cannot.", "rejected": "Sure. Step 1: mix."}
ROW = {"id": "a"} | {
    name: [{"role": "user" if name == "prompt" else "assistant", "content": text}] for name, text in TEXTS.items()
}


@pytest.fixture(scope="module")
def reserved(byte_level: Any, llama3_tokenizer: Any) -> Any:
    """As Llama-3's, whose padding is often the first of its reserved tokens."""
    first = "<|reserved_special_token_0|>"
    specials = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    template, ends = llama3_tokenizer.chat_template, {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"}
    return byte_level((*specials, first, RESERVED), template, **ends, pad=first)


def taught(tokenizer: Any, arm: Arm = Arm.reset_rto, **objective: Any) -> Any:
    return taught_refusal_token(ObjectiveConfig(name=arm, **objective), tokenizer)


def test_the_first_reserved_token_without_another_use_is_taken(reserved):
    for arm in (Arm.reset, Arm.reset_rto):
        token = taught(reserved, arm)
        assert token.is_reset and token.continued_text == RESERVED
        assert reserved.decode([token.continued_id]) == RESERVED
        assert token.start_id == taught(reserved, Arm.derta).start_id
    assert not taught(reserved, Arm.derta).is_reset


def test_tokens_with_another_use_or_none_are_refused(llama3_tokenizer, reserved):
    with pytest.raises(InputError, match="no special token called reserved"):
        taught(llama3_tokenizer)
    for name in ("<|eot_id|>", "<|reserved_special_token_0|>", "no such token"):
        with pytest.raises(InputError, match=r"has another use .*reset_token='<\|reserved_special_token_1\|>'"):
            taught(reserved, reset_token=name)


def test_rows(reserved):
    """S R R .. R beside the harmful response; R s .. E behind k > 0 tokens of it, and s .. E without prefix."""
    token = taught(reserved)
    (example,) = tokenize_rows([ROW], ConversationCutter(reserved), token)
    prompt, safe, harmful = example["prompt_ids"], example["chosen_ids"], example["rejected_ids"]
    assert reserved.decode(safe) == f"{TEXTS['chosen']}<|eot_id|>"
    settings = RowSettings(objective=ObjectiveConfig(name=Arm.reset_rto), max_length=100, seed=1)
    builder = RowBuilder(refusal=token, settings=settings)
    rto = builder.build(example, View.RTO, 0, 0)
    assert rto["input_ids"] == prompt + harmful
    expected = [token.start_id] + [token.continued_id] * (len(harmful) - 1)
    assert rto["labels"] == [-100] * len(prompt) + expected
    seen = set()
    for epoch in range(20):
        row = builder.build(example, View.MLE_WITH_PREFIX, 0, epoch)
        supervised = [label for label in row["labels"] if label != -100]
        k = len(row["input_ids"]) - len(prompt) - len(supervised)
        assert row["input_ids"] == prompt + harmful[:k] + supervised
        assert supervised == ([token.continued_id, *safe] if k else safe)
        seen.add(k > 0)
    assert seen == {True, False}
    turn = builder.build(example, View.TRANSITION, 1, 0)
    assert [label for label in turn["labels"] if label != -100][:3] in ([token.continued_id, *safe[:2]], safe[:3])


def test_a_response_that_spells_it_is_refused_by_name(reserved):
    row = {**ROW, "id": "triple-7", "rejected": [{"role": "assistant", "content": f"Sure {RESERVED}"}]}
    with pytest.raises(InputError, match=r"row triple-7: a response spells the reset token"):
        tokenize_rows([row], ConversationCutter(reserved), taught(reserved))


def test_lora_says_that_it_leaves_the_head_s_row_as_it_is(tiny_trainer, caplog):
    lora = {"peft_config": LoraConfig(r=2, target_modules=["q_proj"])}
    tiny_trainer(objective="reset", reset_token="^", more=lora)
    assert caplog.text.count("LoRA trains no row of the LM head, that of the reset token '^' included") == 1
    caplog.clear()
    tiny_trainer(objective="reset", reset_token="^")
    tiny_trainer(objective="derta", more=lora)
    assert "LoRA trains no row" not in caplog.text
