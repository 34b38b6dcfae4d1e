"""Tokenise a conversation once and cut it by token index.

    rendered:  <header>user ... <header>assistant  Mix the ashseed ...  <end of turn>
    cut into:  prompt ids                          response ids         end id

The cut comes from the tokenizer's own character offsets in the *whole* text, never from the length of a separately
tokenised prefix: tokenizers may merge across the seam, and then the two disagree (DeRTa's reference code measures the
prefix, method.md section 1).

A response exists in two forms. The *start* form is how it reads at the beginning of a turn ("Sorry"), the *continued*
form how it reads after other text (" Sorry" for byte-level BPE): that is what follows a harmful prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from derta.errors import InputError
from derta.models.messages import TEXT_ROLE, is_raw_text

__all__ = ["TEXT_ROLE", "ConversationCutter", "Cut", "Messages", "check_tokenizer", "is_raw_text"]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, str]]

_PLACEHOLDER = "\ue000response\ue001"  # private-use characters: no template and no data hold them
_ANCHOR = "Step"  # any word; a continued response is cut off behind it


@dataclass(frozen=True)
class Cut:
    """One conversation, cut. `prompt + response + [end]` are the ids of the rendered conversation up to its end token.

    prompt: ids of everything up to the response, headers included.
    response: ids of the response text itself, and of the white space a template puts between it and the end token.
    end: id of the token that ends the turn.
    """

    prompt: list[int]
    response: list[int]
    end: int


class Passage(NamedTuple):
    """A response in its text: characters start..end. `special`: the tokenizer adds its special tokens (raw text)."""

    text: str
    start: int
    end: int
    special: bool


Offsets = Sequence[tuple[int, int]]  # characters (first, end) of every token


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, *, needs_chat_template: bool = True) -> None:
    """Refuse a tokenizer that training would misuse silently; every problem is named at once.

    Raises:
        InputError: no fast implementation (character offsets are needed), no EOS token, no pad token, or, where
            `needs_chat_template`, no chat template.
    """
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
    """Renders, tokenises and cuts conversations with one tokenizer and its chat template.

    Raises:
        InputError: from the methods, when the template does not show the response literally (for example when it
            rewrites it), so that no honest cut exists.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._frame: tuple[Messages, str] | None = None  # the last prompt, rendered around a placeholder
        self._special_ids = set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}

    def cut(self, prompt: Messages, response: Messages) -> Cut:
        """Start form: the response as it reads at the beginning of the assistant's turn."""
        return self._cut_one(self.place(prompt, response))

    def cut_continued(self, prompt: Messages, response: Messages) -> Cut:
        """Continued form: the response as it reads after other text and one space."""
        return self._cut_one(self.place_continued(prompt, response))

    def place(self, prompt: Messages, response: Messages) -> Passage:
        """Text and place of the start form. With `encode` and `cut_passage` it does for many rows what `cut` does for
        one; tokenizers are half as fast again on many texts at once."""
        content = response[0]["content"]
        if is_raw_text(prompt):
            text = prompt[0]["content"] + content
            return Passage(text, len(prompt[0]["content"]), len(text), special=True)
        # White space around a chat response is not part of it: templates that do not trim would move it into the
        # prompt, which would then differ between a row's two responses.
        return Passage(*self._locate(prompt, content.strip()), special=False)

    def place_continued(self, prompt: Messages, response: Messages) -> Passage:
        """Text and place of the continued form."""
        content = response[0]["content"]
        if is_raw_text(prompt):
            # Raw text carries its own leading space, if it wants one.
            joint = "" if content[:1].isspace() else " "
            text = prompt[0]["content"] + _ANCHOR + joint + content
            return Passage(text, len(prompt[0]["content"]) + len(_ANCHOR), len(text), special=True)
        rendered, start, end = self._locate(prompt, f"{_ANCHOR} {content.strip()}")
        return Passage(rendered, start + len(_ANCHOR), end, special=False)

    def encode(self, passages: Sequence[Passage]) -> list[tuple[list[int], Offsets]]:
        """Ids and character offsets of every passage's whole text."""
        found: list[tuple[list[int], Offsets]] = [([], [])] * len(passages)
        for special in (False, True):
            places = [i for i, passage in enumerate(passages) if passage.special is special]
            if places:
                texts = [passages[i].text for i in places]
                encoded: Any = self.tokenizer(texts, add_special_tokens=special, return_offsets_mapping=True)
                for i, ids, offsets in zip(places, encoded["input_ids"], encoded["offset_mapping"], strict=True):
                    found[i] = ids, offsets
        return found

    def prompt_ids(self, prompt: Messages) -> list[int]:
        """Ids a model is given to generate from: those that stand before a response in training."""
        if is_raw_text(prompt):
            return self.tokenizer(prompt[0]["content"])["input_ids"]
        return self.tokenizer(self.prompt_text(prompt), add_special_tokens=False)["input_ids"]

    def prompt_text(self, prompt: Messages) -> str:
        """A conversation, rendered up to where the model's response begins.

        That is what the template writes in front of the assistant's message, also where its generation prompt says
        less or more: Qwen3's leaves out the empty think block (unless it is asked not to think) which the template
        writes before every last answer, so that training and generation would differ by a block.
        """
        asked = self._apply_template(prompt, add_generation_prompt=True)
        try:
            before, found, _ = self._framed(prompt).partition(_PLACEHOLDER)
        except InputError:  # no answer may stand behind these turns; they can be generated from all the same
            return asked
        return before if found and before.strip() != asked.strip() else asked

    def instruction_span(self, prompt: Messages) -> tuple[int, int]:
        """Places (first, end) in `prompt_ids` of the last message; behind it stands what the template adds."""
        if is_raw_text(prompt):
            return 0, len(self.prompt_ids(prompt))
        rendered, content = self.prompt_text(prompt), prompt[-1]["content"].strip()
        start = rendered.rfind(content)
        encoded: Any = self.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        before = sum(stop <= start for _, stop in offsets)
        return before, len(offsets) - sum(begin >= start + len(content) for begin, _ in offsets)

    def _render(self, prompt: Messages, content: str) -> str:
        return self._apply_template([*prompt, {"role": "assistant", "content": content}])

    def _apply_template(self, messages: Messages, **kwargs: bool) -> str:
        from jinja2 import TemplateError, TemplateSyntaxError

        try:
            return self.tokenizer.apply_chat_template(list(messages), tokenize=False, **kwargs)
        except TemplateSyntaxError as error:
            raise InputError(
                f"the chat template is not valid Jinja (line {error.lineno}: {error.message}): correct it, or use "
                "another one (model.chat_template)"
            ) from error
        except TemplateError:  # templates raise it for roles or an order of turns that they do not know
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
        except TemplateError as error:
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

    def _cut_one(self, passage: Passage) -> Cut:
        return self.cut_passage(passage, *self.encode([passage])[0])

    def cut_passage(self, passage: Passage, ids: list[int], offsets: Offsets) -> Cut:
        """Cut an encoded passage."""
        text, start, end, special = passage
        first = next((i for i, (_, stop) in enumerate(offsets) if stop > start), len(ids))
        last = next((i for i, (begin, stop) in enumerate(offsets) if begin >= end and stop > start), len(ids))
        if first < len(ids) and text[offsets[first][0] : start].strip():
            raise InputError(
                "the tokenizer merges the end of the prompt's header with the first word of the response, so prompt "
                "and response share a token: use a chat template that ends its header in a special token or white "
                "space (model.chat_template)"
            )
        response, end_id = ids[first:last], self.tokenizer.eos_token_id
        if special:  # raw text may spell its end token out, as the reference repository's rows do
            while response and response[-1] in self._special_ids:
                end_id = response.pop()
        elif (stop := next((i for i in range(last, len(ids)) if ids[i] in self._special_ids), None)) is not None:
            end_id = ids[stop]
            if not text[end : offsets[stop][0]].strip():  # Llama-2 writes a space before its end token
                response = ids[first:stop]
        return Cut(prompt=ids[:first], response=response, end=end_id)
