"""Render a conversation, tokenise it once and cut it by token index: the one place where a tokenizer meets a text.

    rendered:  <header>user ... <header>assistant  Mix the ashseed ...  <end of turn>
    cut into:  prompt ids                          response ids         end id

The cut comes from the tokenizer's own character offsets in the *whole* text, never from the length of a separately
tokenised prefix: tokenizers may merge across the seam, and then the two disagree (DeRTa's reference code,
github.com/RobustNLP/DeRTa, measures the prefix).

What a model generates from is what stands before a response in training, token by token. So a space at the end of a
header belongs to the response where the tokenizer has tokens such as " Sorry": before a response that begins with a
digit or an emoji it is then the response's first token. A row whose prompt comes out otherwise is refused.

A response exists in two forms. The *start* form is how it reads at the beginning of a turn ("Sorry"), the *continued*
form how it reads after other text (" Sorry" for byte-level BPE): that is what follows a harmful prefix.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from derta.errors import InputError
from derta.models.messages import TEXT_ROLE, is_raw_text
from derta.models.template_date import fixed_template

__all__ = ["TEXT_ROLE", "ConversationCutter", "Cut", "Messages", "check_tokenizer", "is_raw_text"]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, Any]]

_PLACEHOLDER = "\ue000response\ue001"  # private-use characters: no template and no data hold them
_ANCHOR = "Step"  # any word; a continued response is cut off behind it, a prompt before it
_HELLO = {"role": "user", "content": "Hello"}
# How responses may begin, with one of each kind that tokenizers treat in ways of their own.
_BEGINNINGS = {
    "a capital letter": "Step",
    "a small letter": "step",
    "a digit": "5 steps",
    "a quotation mark": '"Step"',
    "a hyphen": "- step",
    "an emoji": "🙂",
    "a Chinese character": "第一步",
}


@dataclass(frozen=True)
class Cut:
    """One conversation, cut. `prompt + response + [end]` are the ids of the rendered conversation up to its end token.

    prompt: ids of everything up to the response, headers included.
    response: ids of the response text itself, and of what a template puts before it (a space) and between it and the
        end token.
    end: id of the token that ends the turn.
    """

    prompt: list[int]
    response: list[int]
    end: int


class Passage(NamedTuple):
    """A response in its text: characters start..end. `raw`: raw text, used without a chat template."""

    text: str
    start: int
    end: int
    raw: bool


Offsets = Sequence[tuple[int, int]]  # characters (first, end) of every token


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, *, needs_chat_template: bool = True) -> None:
    """Refuse a tokenizer that training would misuse silently; every problem is named at once.
    Raises InputError: no fast implementation (character offsets are needed), no EOS token, no pad token, or, where
    `needs_chat_template`, no chat template."""
    problems = []
    if not tokenizer.is_fast:
        problems.append("it is a slow tokenizer without character offsets: convert it to a fast one (tokenizer.json)")
    if tokenizer.eos_token_id is None:
        problems.append("it has no EOS token, so the model could not learn to stop: set model.eos_token")
    if tokenizer.pad_token_id is None:
        problems.append(
            "it has no pad token: set model.pad_token to an unused special token "
            "(for Llama-3 for example model.pad_token='\"<|reserved_special_token_0|>\"')"
        )
    if needs_chat_template and not tokenizer.chat_template:
        problems.append(
            "it has no chat template, but the rows are conversations: set model.chat_template to a Jinja file "
            "or to a tokenizer directory that has one"
        )
    if problems:
        raise InputError.listing(f"the tokenizer of {tokenizer.name_or_path or 'the model'} cannot be used:", problems)


class ConversationCutter:
    """Renders, tokenises and cuts conversations with one tokenizer and its chat template. Its methods raise InputError
    where the template does not show the response literally, so that no honest cut exists."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self._eos: Any = tokenizer.eos_token_id
        self._frame: tuple[Messages, str] | None = None  # the last prompt, rendered around a placeholder
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}
        self._special_ids = special - {tokenizer.unk_token_id}
        # Some tokenizers add their marks without calling them special, others add plain runs of spaces.
        self._marks = self._special_ids | {i for i, token in added.items() if token.content.strip()}

    def check(self) -> None:
        """Refuse a chat template that could not be cut in the same place before every response.
        Raises InputError: for one of several kinds of responses; the message says what they begin with."""
        before = self.prompt_ids([_HELLO])
        for kind, text in _BEGINNINGS.items():
            if self.cut([_HELLO], [{"role": "assistant", "content": text}]).prompt != before:
                raise self.unequal_prompts(f"responses that begin with {kind}")

    @property
    def writes_its_ends(self) -> bool:
        """Whether the token that ends a response stands in the rendered conversation. Else it is EOS all the same."""
        behind = self._framed([_HELLO]).rpartition(_PLACEHOLDER)[2]
        return self._ends > {self._eos} or self.tokenizer.eos_token in behind

    @staticmethod
    def unequal_prompts(which: str) -> InputError:
        return InputError(
            f"the prompt is tokenised otherwise before {which} than where a model generates from it, because a token "
            "reaches from one into the other: use a chat template whose header ends in a special token or a line "
            "break (model.chat_template); end raw text before a response in a word, and begin the response with a space"
        )

    # Training: a prompt and its response

    def cut(self, prompt: Messages, response: Messages) -> Cut:
        """Start form: the response as it reads at the beginning of the assistant's turn."""
        return self._cut_one(self.place(prompt, response))

    def cut_continued(self, prompt: Messages, response: Messages) -> Cut:
        """Continued form: the response as it reads after other text and one space."""
        return self._cut_one(self.place_continued(prompt, response))

    def place(self, prompt: Messages, response: Messages) -> Passage:
        """Text and place of the start form. With `encode` and `cut_passage` it does for many rows what `cut` does for
        one; tokenizers are half as fast again on many texts at once."""
        if is_raw_text(prompt):
            before, content = prompt[0]["content"], response[0]["content"]
            text, end = before + content, len(before + content)
        else:
            text, start, end = self._locate(prompt, self._spoken(response))
            before = text[:start]
        return Passage(text, self._seam(before), end, is_raw_text(prompt))

    def place_continued(self, prompt: Messages, response: Messages) -> Passage:
        """Text and place of the continued form."""
        if is_raw_text(prompt):
            # Raw text carries its own leading space, if it wants one.
            content = response[0]["content"]
            joint = "" if content[:1].isspace() else " "
            text = prompt[0]["content"] + _ANCHOR + joint + content
            return Passage(text, len(prompt[0]["content"]) + len(_ANCHOR), len(text), raw=True)
        rendered, start, end = self._locate(prompt, f"{_ANCHOR} {self._spoken(response)}")
        return Passage(rendered, start + len(_ANCHOR), end, raw=False)

    def place_prompt(self, prompt: Messages) -> Passage:
        """Text and place for `opened`, as `place` is for `cut_passage`."""
        raw = is_raw_text(prompt)
        return self._before_a_response(prompt[0]["content"] if raw else self.prompt_text(prompt), raw)

    def encode(self, passages: Sequence[Passage]) -> list[tuple[list[int], Offsets]]:
        """Ids and character offsets of every passage's whole text; the tokenizer adds nothing to it."""
        texts = [passage.text for passage in passages]
        encoded: Any = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))

    def cut_passage(self, passage: Passage, ids: list[int], offsets: Offsets) -> Cut:
        """Cut an encoded passage.
        Raises InputError: prompt and response share a token; the response spells the token that ends its turn; the
        template ends responses in text that is no token."""
        text, start, end, raw = passage
        prompt, first = self.opened(passage, ids, offsets)
        last = bisect_left(offsets, end, lo=first, key=itemgetter(0))
        response, end_id = ids[first:last], self._eos
        if raw:  # it may spell its end token out, as the reference repository's rows do
            while response and response[-1] in self._special_ids | self._ends:
                end_id = response.pop()
            return Cut(prompt, response, end_id)
        stop = next((i for i in range(last, len(ids)) if ids[i] in self._marks), None)
        if stop is not None:  # Llama-2 writes a space before its end token
            response, end_id = ids[first:stop], ids[stop]
        elif text[end:].strip():
            raise InputError(
                "the chat template ends a response in text for which the tokenizer has no token of its own, so the "
                "model could not learn to end its turn: add that token to the tokenizer, or use another template "
                "(model.chat_template)"
            )
        else:
            end_id = self._eos if self._mark_of_the_next_turn is None else self._mark_of_the_next_turn
        if end_id in response or self._eos in response and self._eos in self._marks:
            raise InputError(
                f"a response spells {self.tokenizer.decode([end_id])!r} or "
                f"{self.tokenizer.eos_token!r}, which end a turn, before its end: take it out of the row"
            )
        return Cut(prompt, response, end_id)

    @cached_property
    def _mark_of_the_next_turn(self) -> int | None:
        """What ends a response where the template writes nothing behind the last one (GLM): the first token of the
        user's next turn. None where that is no token of its own either; responses then end in EOS."""
        try:
            text = self._apply_template([_HELLO, {"role": "assistant", "content": _PLACEHOLDER}, _HELLO])
        except InputError:
            return None
        before, _, after = text.partition(_PLACEHOLDER)
        ((ids, offsets),) = self.encode([Passage(before + _ANCHOR + after, 0, 0, raw=False)])
        behind = len(before) + len(_ANCHOR)
        found = next((i for i in range(len(ids)) if offsets[i][0] >= behind and ids[i] in self._marks), None)
        return None if found is None or after[: offsets[found][0] - behind].strip() else ids[found]

    # Generation: a prompt alone

    def prompt_ids(self, prompt: Messages) -> list[int]:
        """Ids a model is given to generate from: those that stand before a response in training."""
        passage = self.place_prompt(prompt)
        return self.opened(passage, *self.encode([passage])[0])[0]

    def question_ids(self, messages: Messages) -> list[int]:
        """Ids that a model which is trained elsewhere (a judge) is given: what its template's generation prompt makes
        of the messages, the last of which may be the assistant's. Raw text, or one message without a template, as is.
        """
        if is_raw_text(messages) or (len(messages) == 1 and not self.tokenizer.chat_template):
            return self.prompt_ids([{"role": TEXT_ROLE, "content": messages[0]["content"]}])
        return self.rendered_ids(self.question_text(messages))[0]

    def question_text(self, messages: Messages) -> str:
        """The conversation with the template's generation prompt."""
        return self._apply_template(messages, add_generation_prompt=True)

    def prompt_text(self, prompt: Messages) -> str:
        """A conversation, rendered up to where the model's response begins.

        That is what the template writes in front of the assistant's message, also where its generation prompt says
        less or more: Qwen3's leaves out the empty think block (unless it is asked not to think) which the template
        writes before every last answer, so that training and generation would differ by a block.
        """
        with contextlib.suppress(InputError):  # no answer may stand behind these turns; they can be asked all the same
            before, found, _ = self._framed(prompt).partition(_PLACEHOLDER)
            if found:
                return before
        return self.question_text(prompt)

    def rendered_ids(self, text: str) -> tuple[list[int], Offsets]:
        """Ids to generate from behind a conversation that `prompt_text` has rendered, and their characters."""
        passage = self._before_a_response(text, raw=False)
        ((ids, offsets),) = self.encode([passage])
        ids, _ = self.opened(passage, ids, offsets)
        return ids, offsets[: len(ids)]

    def instruction_span(self, prompt: Messages) -> tuple[int, int]:
        """Places (first, end) in `prompt_ids` of the last message; behind it stands what the template adds."""
        if is_raw_text(prompt):
            return 0, len(self.prompt_ids(prompt))
        rendered, content = self.prompt_text(prompt), prompt[-1]["content"].strip()
        start = rendered.rfind(content)
        _, offsets = self.rendered_ids(rendered)
        before = sum(stop <= start for _, stop in offsets)
        return before, len(offsets) - sum(begin >= start + len(content) for begin, _ in offsets)

    # Where the response begins

    def _before_a_response(self, text: str, raw: bool) -> Passage:
        # What white space becomes depends on what follows it.
        return Passage(text + _ANCHOR * text[-1:].isspace(), self._seam(text), len(text), raw)

    def _seam(self, before: str) -> int:
        """The character behind `before` at which its response begins."""
        return len(before.rstrip(" \t") if before[-1:] in (" ", "\t") and self._joins_spaces else before)

    @cached_property
    def _joins_spaces(self) -> bool:
        """Whether a space and the word behind it can be one token."""
        return any(token[0] in "Ġ▁ " and token.strip("Ġ▁ ") for token in self.tokenizer.get_vocab() if token)

    def opened(self, passage: Passage, ids: list[int], offsets: Offsets) -> tuple[list[int], int]:
        """The ids before the response of an encoded passage, and the place of its first token."""
        start = passage.start
        # A token without characters is a space that the tokenizer has put before the response.
        first = bisect_right(offsets, start, key=itemgetter(1))
        while first and offsets[first - 1] == (start, start):
            first -= 1
        if first < len(ids) and passage.text[offsets[first][0] : start].strip():
            raise InputError(
                "the tokenizer merges the end of the prompt's header with the first word of the response, so prompt "
                "and response share a token: use a chat template that ends its header in a special token or white "
                "space (model.chat_template)"
            )
        if not passage.raw:
            return ids[:first], first
        if ids[: len(self._opening)] == self._opening:  # the text spells it out
            first = max(first, len(self._opening))
            return ids[:first], first
        return self._opening + ids[:first], first

    @cached_property
    def _opening(self) -> list[int]:
        """What the tokenizer puts before a raw text (BOS). What it would put behind one is the row's to say."""
        own, whole = (self.tokenizer(_ANCHOR, add_special_tokens=added)["input_ids"] for added in (False, True))
        return next((whole[:n] for n in range(len(whole)) if whole[n : n + len(own)] == own), [])

    def _cut_one(self, passage: Passage) -> Cut:
        return self.cut_passage(passage, *self.encode([passage])[0])

    # The template

    def _spoken(self, response: Messages) -> str:
        """A chat response without the white space around it, which templates that do not trim would move into the
        prompt, and without the end token that it may spell: the template writes that."""
        text = response[0]["content"].strip()
        spelled = tuple(self.tokenizer.convert_ids_to_tokens(sorted(self._ends)))
        while text.endswith(spelled):
            text = text.removesuffix(next(end for end in spelled if text.endswith(end))).rstrip()
        return text

    @cached_property
    def _ends(self) -> set[int]:
        """Ids that end a turn: EOS, and what the template writes behind a response."""
        ends = {self._eos}
        if self.tokenizer.chat_template:
            with contextlib.suppress(InputError):
                ends.add(self._cut_one(Passage(*self._locate([_HELLO], _ANCHOR), raw=False)).end)
        return ends & self._marks

    def _render(self, prompt: Messages, content: str) -> str:
        return self._apply_template([*prompt, {"role": "assistant", "content": content}])

    def _apply_template(self, messages: Messages, **kwargs: bool) -> str:
        from jinja2 import TemplateError, TemplateSyntaxError

        try:
            return self.tokenizer.apply_chat_template(
                list(messages), chat_template=fixed_template(self.tokenizer), tokenize=False, **kwargs
            )
        except TemplateSyntaxError as error:
            raise InputError(
                f"the chat template is not valid Jinja (line {error.lineno}: {error.message}): correct it, or use "
                "another one (model.chat_template)"
            ) from error
        except (TemplateError, TypeError):  # templates raise for roles or an order of turns that they do not know
            roles = [message["role"] for message in messages]
            raise InputError(
                f"the chat template refuses a conversation with the roles {roles}{self._why_refused(messages)}: change "
                "these rows, or use another template (model.chat_template)"
            ) from None  # its own words may quote the row

    def _why_refused(self, messages: Messages) -> str:
        """The template's own words about a conversation of the same roles that says nothing."""
        from jinja2 import TemplateError

        try:
            self.tokenizer.apply_chat_template([{**message, "content": "..."} for message in messages], tokenize=False)
        except (TemplateError, TypeError) as error:
            return f" ({error})"
        return ""

    def _framed(self, prompt: Messages) -> str:
        """The conversation with a placeholder as its response."""
        if self._frame is None or self._frame[0] != prompt:  # the cuts of one row share its prompt
            self._frame = list(prompt), self._render(prompt, _PLACEHOLDER)
        return self._frame[1]

    def _locate(self, prompt: Messages, content: str) -> tuple[str, int, int]:
        """The rendered conversation, and the characters between which the response stands in it."""
        before, found, after = self._framed(prompt).partition(_PLACEHOLDER)
        rendered = self._render(prompt, content)
        start, end = len(before), len(rendered) - len(after)
        framed = found and rendered.startswith(before) and rendered.endswith(after)
        if not framed or rendered[start:end].strip() != content.strip():
            raise InputError(
                "the chat template does not write the assistant's message literally between a fixed header and "
                "footer, so the response cannot be cut out: use another template (model.chat_template)"
            )
        return rendered, start, end
