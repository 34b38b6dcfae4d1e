"""Which token the model is taught to say when it turns round: one decision per tokenizer and refusal text.

    start form        the token that the text starts with at the beginning of a response          "Sorry"
    continued form    the token that it starts with behind other text, as MLE rows with a         " Sorry"
                      harmful prefix write it: RTO's target

The paper writes "sorry"; its code (github.com/RobustNLP/DeRTa) hard-codes one id, Llama-3's "Sorry" without leading
space, at every position. A model that is taught one token by RTO and another one by the rows with a harmful prefix says
"SorrySorrySorry": nothing has taught it what follows the first.

A tokenizer may split the word. Its first piece (" Sor") is a target all the same: rows with a harmful prefix teach what
follows it. White space alone is none: where a tokenizer writes the space before the word as a token of its own, MLE
rows leave it out behind a harmful prefix, so that both kinds of rows teach the word itself there.

P(refusal) is the sum of the probabilities of both forms.

The arms reset and reset_rto (backtracking, arXiv 2409.14586, section 3) have a reset token R for a continued form, one
that no text holds; what stands before the last R of a response is taken back. So R, which begins the turn, is what RTO
teaches, what P(refusal) looks for, and what a safe response s begins with behind k > 0 tokens of the harmful one:

    reset          L = - E log P(R s | q, r_hat[:k])         k = 0: - E log P(s | q)
    reset_rto      L = that  - E log P(S | q)  - E sum_{t=2..|r_hat|} log P(R | q, r_hat[:t-1])

Behind R the safe response reads as at the start of a turn, since that is where it will stand.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from derta.config.objective import ObjectiveConfig
from derta.errors import InputError
from derta.models.conversation import ConversationCutter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

DEFAULT_TEXT = "Sorry"

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
    start_is_piece, continued_is_piece: they are only the beginning of the text's first word.
    space_apart: the tokenizer writes the space before the text as a token of its own, which MLE rows leave out.
    is_reset: the continued form is a reset token.
    """

    text: str
    start_id: int
    continued_id: int
    start_text: str
    continued_text: str
    start_is_piece: bool = False
    continued_is_piece: bool = False
    space_apart: bool = False
    is_reset: bool = False

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens whose probabilities make up P(refusal)."""
        return tuple(dict.fromkeys((self.start_id, self.continued_id)))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> RefusalToken:
        """What `to_dict` has written.

        Raises:
            InputError: something is missing.
        """
        try:
            return cls(**{field.name: stored[field.name] for field in fields(cls) if field.name in stored})
        except TypeError:
            raise InputError(
                "the model's derta_config.json holds no whole refusal_token: restore it, or name the token in the "
                "command (eval.refusal_text, eval.refusal_token_ids)"
            ) from None

    def __str__(self) -> str:
        start, continued = (
            f"{token!r} (id {number}{', the first piece of its word' * piece})"
            for token, number, piece in (
                (self.start_text, self.start_id, self.start_is_piece),
                (self.continued_text, self.continued_id, self.continued_is_piece),
            )
        )
        return f"{start} at the start of a response, {continued} after text"


def resolve_refusal_token(
    tokenizer: PreTrainedTokenizerBase,
    text: str = DEFAULT_TEXT,
    token_ids: Sequence[int] | None = None,
    *,
    group: str = "objective",
) -> RefusalToken:
    """The token(s) a refusal starts with.

    Args:
        text: word or phrase refusals start with.
        token_ids: given outright instead: one id for every position (what the reference code does with 19701), or two,
            start and continued.
        group: where `refusal_text` and `refusal_token_ids` stand in the configuration, for messages.

    Raises:
        InputError: the first token is unknown to the tokenizer, or a word that opens ordinary answers too ("I", "The");
            ids outside the vocabulary, or of white space.
    """
    if token_ids is not None:
        return _from_ids(tokenizer, text, token_ids, f"{group}.refusal_token_ids")
    key = f"{group}.refusal_text"
    if not text.strip():
        raise InputError(f"{key} is empty: give the word refusals start with, for example {DEFAULT_TEXT}")
    start, continued = both_forms(tokenizer, text.strip())
    own, word = without_space(tokenizer, start), without_space(tokenizer, continued)
    remedy = f"choose another {key}, or give the ids yourself in {group}.refusal_token_ids"
    if (first := _first_word(text)).lower() in _COMMON_OPENERS:
        raise InputError(
            f"{key}={text!r} starts with {first!r}, a word that opens ordinary answers too: as a target at every "
            f"position it would be ambiguous; {remedy}"
        )
    if any(not ids or ids[0] == tokenizer.unk_token_id for ids in (own, word)):
        raise InputError(f"{key}={text!r}: this tokenizer has no token that it could start with; {remedy}")
    return RefusalToken(
        text,
        own[0],
        word[0],
        tokenizer.decode(own[:1]),
        tokenizer.decode(word[:1]),
        start_is_piece=_is_piece(tokenizer, text, own[0]),
        continued_is_piece=_is_piece(tokenizer, text, word[0]),
        space_apart=own != start or word != continued,
    )


def usable_refusal_token(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    token_ids: Sequence[int] | None = None,
    *,
    group: str = "objective",
    otherwise: str = "P(refusal) is not measured",
) -> RefusalToken | None:
    """As `resolve_refusal_token`, for those who only measure: what cannot be used ends nothing, and is said in one
    line, which begins with what becomes of it."""
    try:
        return resolve_refusal_token(tokenizer, text, token_ids, group=group)
    except InputError as error:
        logger.warning("%s: %s", otherwise, error)
        return None


def taught_refusal_token(objective: ObjectiveConfig, tokenizer: PreTrainedTokenizerBase) -> RefusalToken | None:
    """The decision for a run, said in one line. Arms that teach no refusal token need none.

    Raises:
        InputError: an arm with RTO (or ablation, which measures refusal) and no usable token; RTO alone on half a word.
    """
    text, token_ids, arm = objective.refusal_text, objective.refusal_token_ids, objective.name
    rows = arm.rows
    if not (rows.rto or rows.reset) and objective.ablation.probability == 0:
        found = usable_refusal_token(tokenizer, text, token_ids, otherwise="refusal token: none")
    else:
        found = resolve_refusal_token(tokenizer, text, token_ids)
    if found is not None and rows.reset:
        found = with_reset(found, tokenizer, objective.reset_token)
    if found is not None:
        logger.info("refusal token: %s", found)
    if found and found.continued_is_piece and rows.rto and not rows.prefix and objective.transition_copies == 0:
        raise InputError(
            f"objective=rto teaches {found.continued_text!r} after text, which is only the beginning of a word, and no "
            "row teaches what follows it there: add rows that do (objective.transition_copies=1), or use "
            "objective=derta"
        )
    return found


def with_reset(refusal: RefusalToken, tokenizer: PreTrainedTokenizerBase, token: str | None) -> RefusalToken:
    """The refusal token with a reset token for a continued form.

    Args:
        token: how the vocabulary spells it; None takes the first special token that is called reserved or unused.

    Raises:
        InputError: there is none, or it has another use.
    """
    template = str(tokenizer.chat_template or "")
    used = {name for name in tokenizer.special_tokens_map.values() if isinstance(name, str)}
    if template:
        hello = [{"role": "user", "content": "Hello"}]
        used |= set(tokenizer.convert_ids_to_tokens(ConversationCutter(tokenizer).prompt_ids(hello)))
    special = [added.content for _, added in sorted(tokenizer.added_tokens_decoder.items()) if added.special]
    free = [name for name in special if name not in used and name not in template]
    name = token or next((name for name in free if re.search("reserved|unused", name, re.IGNORECASE)), None)
    remedy = f"for example objective.reset_token='{free[0]}'" if free else "of the tokenizer's vocabulary"
    if name is None:
        raise InputError(
            "the tokenizer has no special token called reserved or unused that could be the reset token: name one "
            f"that no response holds, {remedy}"
        )
    if name not in tokenizer.get_vocab() or name in used or name in template:
        raise InputError(
            f"objective.reset_token={name!r} is not in the tokenizer's vocabulary, or has another use there or in the "
            f"chat template: name one that has none, {remedy}"
        )
    reset = tokenizer.get_vocab()[name]
    return replace(refusal, continued_id=reset, continued_text=name, continued_is_piece=False, is_reset=True)


def without_space(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """The ids from the first on that is more than white space."""
    first = next((i for i, token in enumerate(ids) if tokenizer.decode([token]).strip()), len(ids))
    return list(ids[first:])


def both_forms(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """The ids of the text at the start of a response, and behind other text."""
    cutter = ConversationCutter(tokenizer)
    if tokenizer.chat_template:
        turn = [{"role": "user", "content": "Hello"}], [{"role": "assistant", "content": text}]
    else:  # raw text only: a response starts wherever the row says, so only its own spelling counts
        turn = [{"role": "text", "content": ""}], [{"role": "text", "content": text}]
    return cutter.cut(*turn).response, cutter.cut_continued(*turn).response


def _first_word(text: str) -> str:
    found = re.search(r"\w+", text)
    return found[0] if found else text.strip()


def _is_piece(tokenizer: PreTrainedTokenizerBase, text: str, token: int) -> bool:
    return len(tokenizer.decode([token]).strip()) < len(_first_word(text))


def _from_ids(tokenizer: PreTrainedTokenizerBase, text: str, token_ids: Sequence[int], key: str) -> RefusalToken:
    given = f"{key}={list(token_ids)}"
    if len(token_ids) not in (1, 2) or any(not 0 <= i < len(tokenizer) for i in token_ids):
        raise InputError(
            f"{given}: expected one id (for every position) or two (start, after text), each from 0 to "
            f"{len(tokenizer) - 1}, the tokenizer's vocabulary"
        )
    if blank := [i for i in token_ids if not tokenizer.decode([i]).strip()]:
        raise InputError(f"{given}: {blank[0]} is white space alone, which starts no refusal; give the word's id")
    start, continued = token_ids[0], token_ids[-1]
    forms = both_forms(tokenizer, text.strip() or DEFAULT_TEXT)
    apart = continued == next(iter(without_space(tokenizer, forms[1])), None) != forms[1][0]
    return RefusalToken(
        text, start, continued, tokenizer.decode([start]), tokenizer.decode([continued]), space_apart=apart
    )
