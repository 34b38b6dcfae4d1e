"""The template that base models are given: the same cut with byte-level and SentencePiece tokenizers."""

from collections.abc import Callable
from typing import Any

import pytest

from derta.config.shipped import CONF_DIR
from derta.models.conversation import ConversationCutter
from derta.objective.refusal_token import resolve_refusal_token

TEMPLATE = (CONF_DIR / "model" / "templates" / "inst.jinja").read_text(encoding="utf-8")
PROMPT = [{"role": "user", "content": "harmful request 3"}]
RESPONSE = [{"role": "assistant", "content": "Sorry, I cannot help."}]


@pytest.fixture(params=["byte_level", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    make: Callable[..., Any] = request.getfixturevalue(request.param)
    return make(("<s>", "</s>"), TEMPLATE, bos="<s>", eos="</s>")


def test_prompt_and_response_share_no_token(tokenizer: Any) -> None:
    cutter = ConversationCutter(tokenizer)
    cut = cutter.cut(PROMPT, RESPONSE)
    assert tokenizer.decode(cut.prompt) == "<s>[INST] harmful request 3 [/INST]\n"
    assert tokenizer.decode(cut.response).strip() == "Sorry, I cannot help."
    assert cut.end == tokenizer.eos_token_id and cut.prompt[0] == tokenizer.bos_token_id
    assert cutter.prompt_ids(PROMPT) == cut.prompt, "what a model is given to answer is what it was trained behind"


def test_the_refusal_token_is_found(tokenizer: Any) -> None:
    token = resolve_refusal_token(tokenizer, "Sorry", None)
    assert tokenizer.decode([token.continued_id]).strip() == "Sorry"
