"""Which token the model is taught to say when it turns round: RTO's target, for any tokenizer and chat template.

The paper writes "sorry"; its code (github.com/RobustNLP/DeRTa) hard-codes one id, Llama-3's "Sorry" without leading
space, at every position. Here the id follows from the tokenizer: the *start* form at the first position of a response
and the *continued* form (" Sorry" for byte-level BPE) after other text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from derta.errors import InputError
from derta.models.conversation import ConversationCutter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Words that open ordinary answers too: teaching them at every position would not be teaching a refusal.
_COMMON_OPENERS = frozenset(
    "a an and as at but for from he here hi how i if in it let my no of on one our she so that the there these they "
    "this to we well what when while with yes you your".split()
)


@dataclass(frozen=True)
class RefusalToken:
    """The resolved refusal token.

    text: the refusal text asked for.
    start_id: token id at the first position of a response.
    continued_id: token id after other text.
    start_text, continued_text: how the tokenizer writes the two.
    """

    text: str
    start_id: int
    continued_id: int
    start_text: str
    continued_text: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.start_text!r} (id {self.start_id}) at the start of a response, "
            f"{self.continued_text!r} (id {self.continued_id}) after text"
        )


def resolve_refusal_token(
    tokenizer: PreTrainedTokenizerBase, text: str = "Sorry", token_ids: Sequence[int] | None = None
) -> RefusalToken:
    """The token(s) a refusal starts with.

    Args:
        text: word or phrase refusals start with. A text of several tokens is resolved to its first one, with a warning.
        token_ids: given outright instead: one id for every position (what the reference code does with 19701), or two,
            start and continued.

    Raises:
        InputError: the first token is only a piece of the first word, or a word that opens ordinary answers too
            ("I", "The"); ids outside the vocabulary.
    """
    if token_ids is not None:
        return _from_ids(tokenizer, text, token_ids)
    if not text.strip():
        raise InputError("objective.refusal_text is empty: give the word refusals start with, for example 'Sorry'")
    cutter = ConversationCutter(tokenizer)
    if tokenizer.chat_template:
        prompt = [{"role": "user", "content": "Hello"}]
        response = [{"role": "assistant", "content": text.strip()}]
        start, continued = cutter.cut(prompt, response).response, cutter.cut_continued(prompt, response).response
    else:  # raw text only: a response starts wherever the row says, so only its own spelling counts
        start = cutter.cut([{"role": "text", "content": ""}], [{"role": "text", "content": text.strip()}]).response
        continued = cutter.cut_continued(
            [{"role": "text", "content": ""}], [{"role": "text", "content": text.strip()}]
        ).response
    if len(continued) > 1 and not tokenizer.decode(continued[:1]).strip():
        # A tokenizer that writes the space as a token of its own: the word itself carries the meaning.
        continued = continued[1:]
    for form, ids in (("at the start of a response", start), ("after text", continued)):
        _check_first_token(tokenizer, text, ids, form)
    if len(start) > 1 or len(continued) > 1:
        logger.warning(
            "objective.refusal_text=%r is more than one token; its first token, %r, is the RTO target",
            text,
            tokenizer.decode(start[:1]),
        )
    return RefusalToken(text, start[0], continued[0], tokenizer.decode(start[:1]), tokenizer.decode(continued[:1]))


def _check_first_token(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], form: str) -> None:
    first_word = text.split()[0]
    first_token = tokenizer.decode(ids[:1]).strip()
    remedy = "choose another objective.refusal_text, or give the ids yourself in objective.refusal_token_ids"
    if not first_word.startswith(first_token) or len(first_token) < len(first_word.strip(",.;:!-'’")):
        pieces = [tokenizer.decode([i]) for i in ids]
        raise InputError(
            f"objective.refusal_text={text!r} starts {form} with {first_token!r}, which is only a piece of its first "
            f"word ({pieces}): as a target it would be ambiguous; {remedy}"
        )
    if first_token.lower() in _COMMON_OPENERS:
        raise InputError(
            f"objective.refusal_text={text!r} starts with {first_token!r}, a word that opens ordinary answers too: "
            f"as a target at every position it would be ambiguous; {remedy}"
        )


def _from_ids(tokenizer: PreTrainedTokenizerBase, text: str, token_ids: Sequence[int]) -> RefusalToken:
    if len(token_ids) not in (1, 2) or any(not 0 <= i < len(tokenizer) for i in token_ids):
        raise InputError(
            f"objective.refusal_token_ids={list(token_ids)}: expected one id (for every position) or two (start, "
            f"after text), each from 0 to {len(tokenizer) - 1}, the tokenizer's vocabulary"
        )
    start, continued = token_ids[0], token_ids[-1]
    return RefusalToken(text, start, continued, tokenizer.decode([start]), tokenizer.decode([continued]))
