"""Where a conversation is cut: headers that end in a space, ends that are not special, responses that spell them."""

from typing import Any

import pytest
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from derta.errors import InputError
from derta.models.conversation import ConversationCutter, Cut

PLAIN = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NEXT_TURN = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
ASKED = [{"role": "user", "content": "question about the garden"}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def raw(text: str) -> list[dict[str, str]]:
    return [{"role": "text", "content": text}]


def tokens(tokenizer: Any, cut: Cut) -> tuple[list[str], list[str]]:
    show = tokenizer.convert_ids_to_tokens
    return show(cut.prompt), show([*cut.response, cut.end])


@pytest.fixture
def chatml(byte_level) -> Any:
    """<|im_end|> is an added token without the special flag, and the EOS token is another one."""
    tokenizer = byte_level(("<|im_start|>", "<|eos|>"), CHATML, bos=None, eos="<|eos|>")
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=False, normalized=False)])
    return tokenizer


@pytest.mark.parametrize(
    ("response", "begins"), [("Sorry, no.", ["ĠSorry"]), ("5 steps", ["Ġ", "5"]), ("🙂 Sorry", ["Ġ", "ð"])]
)
def test_a_space_at_the_end_of_a_header_belongs_to_the_response(response, begins, byte_level):
    tokenizer = byte_level(("<|eos|>",), PLAIN, bos=None, eos="<|eos|>")
    cutter = ConversationCutter(tokenizer)
    prompt, supervised = tokens(tokenizer, cutter.cut(ASKED, answer(response)))
    assert (prompt[-1], supervised[: len(begins)]) == (":", begins)
    assert tokenizer.convert_ids_to_tokens(cutter.prompt_ids(ASKED)) == prompt
    assert not cutter.writes_its_ends and supervised[-1] == "<|eos|>"


def test_an_end_token_without_the_special_flag_is_found(chatml):
    cutter = ConversationCutter(chatml)
    assert tokens(chatml, cutter.cut(ASKED, answer("Sure.")))[1][-1] == "<|im_end|>"
    assert cutter.writes_its_ends


def test_an_end_token_that_a_response_spells_is_taught_once(chatml):
    cutter = ConversationCutter(chatml)
    plain = cutter.cut(ASKED, answer("Sure."))
    for spelled in ("Sure.<|im_end|>", "Sure. <|im_end|>\n", "Sure.<|im_end|><|eos|>"):
        assert cutter.cut(ASKED, answer(spelled)) == plain
        assert cutter.cut(raw("question"), raw(spelled)).end in cutter._ends
    assert cutter.cut(raw("question"), raw(" Sure.<|im_end|>")).response == chatml.encode(" Sure.")
    for middle in ("Sure.<|im_end|> Wait.", "<|eos|>Sure."):
        with pytest.raises(InputError, match="which end a turn, before its end: take it out of the row"):
            cutter.cut(ASKED, answer(middle))


def test_a_response_may_end_where_the_next_turn_begins(byte_level):
    """As in GLM's template, which writes nothing behind a response."""
    tokenizer = byte_level(("<|user|>", "<|assistant|>", "<|eos|>"), NEXT_TURN, bos=None, eos="<|eos|>")
    cutter = ConversationCutter(tokenizer)
    assert tokens(tokenizer, cutter.cut(ASKED, answer("Sure.")))[1][-1] == "<|user|>"
    assert cutter.writes_its_ends


def test_an_end_in_plain_words_is_refused(byte_level):
    tokenizer = byte_level(("<|im_start|>", "<|eos|>"), CHATML, bos=None, eos="<|eos|>")
    with pytest.raises(InputError, match="ends a response in text for which the tokenizer has no token"):
        ConversationCutter(tokenizer).check()


@pytest.mark.parametrize("added", ["<|bos|> $A", "<|bos|> $A <|eos|>"])
def test_raw_text_gets_no_special_token_that_it_spells_and_no_end_before_its_continuation(added, byte_level):
    tokenizer = byte_level(("<|bos|>", "<|eos|>"), None, bos="<|bos|>", eos="<|eos|>")
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<|bos|>", "<|eos|>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=added, special_tokens=ids)
    cutter = ConversationCutter(tokenizer)
    question = tokenizer.encode("question", add_special_tokens=False)
    for text in ("question", "<|bos|>question"):
        assert cutter.prompt_ids(raw(text)) == [tokenizer.bos_token_id, *question]
        assert cutter.question_ids(raw(text)) == [tokenizer.bos_token_id, *question]
        assert cutter.question_ids([{"role": "user", "content": text}]) == [tokenizer.bos_token_id, *question]
        cut = cutter.cut(raw(text), raw(" Sure.<|eos|>"))
        assert (cut.prompt, cut.end) == ([tokenizer.bos_token_id, *question], tokenizer.eos_token_id)
        assert tokenizer.decode(cut.response) == " Sure."


def test_a_question_to_a_judge_ends_with_the_templates_generation_prompt(chatml):
    """Behind the assistant's turn, too, which is what some judges are asked about."""
    cutter = ConversationCutter(chatml)
    asked = chatml.decode(cutter.question_ids([*ASKED, *answer("Sure.")]))
    assert asked.endswith("Sure.<|im_end|>\n<|im_start|>assistant\n")
