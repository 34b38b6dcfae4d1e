"""A model that is asked: it rewrites queries for an attack, judges responses, writes overviews for the data builder.

    conversations (messages; the last one asks) -> answers, or why there is none, which the caller counts

Behind a chat-completions address, or in this process: then loaded with the first conversation. Nothing here knows what
is asked.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from derta.config.attacks import ChatModelConfig
from derta.errors import InputError, errors_named
from derta.models.endpoint import Endpoint, Messages, NoAnswer
from derta.models.generation import generate, plan_batches
from derta.models.inputs import ModelInput, Sampling
from derta.models.target import HELLO, TargetModel, load_target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Answers = list[str | NoAnswer]
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>")  # what chat models write at the end of a turn, whatever their EOS is


class ChatModel(Protocol):
    """`settings` is what the model is recognised by, as JSON."""

    settings: Mapping[str, Any]

    def complete_many(self, conversations: Sequence[Messages], seeds: Sequence[int] | None = None) -> Answers:
        """One answer per conversation, in their order; the same conversations and seeds are answered alike (by an
        endpoint: as far as its server keeps to that)."""
        ...


class EndpointChat:
    """A chat-completions endpoint with fixed sampling settings."""

    def __init__(self, config: ChatModelConfig, key: str):
        self.endpoint = Endpoint(config.endpoint, f"{key}.endpoint")
        self.sampling = _sampling(config)
        self.settings: Mapping[str, Any] = {"url": config.endpoint.url, "model": config.endpoint.model, **self.sampling}

    def complete_many(self, conversations: Sequence[Messages], seeds: Sequence[int] | None = None) -> Answers:
        sent = {name: value for name, value in self.sampling.items() if (name, value) != ("top_p", 1)}
        return self.endpoint.complete_many(conversations, seeds=seeds, **sent)


class LocalChat:
    """A causal language model, or an adapter on its base. A conversation that leaves no room for an answer in the
    context has none: what a cut one would be answered is another question's answer."""

    def __init__(self, config: ChatModelConfig, key: str, device: Any = None):
        self.config, self.key, self.device = config, key, device
        model = config.model
        named = {"name_or_path": model.name_or_path, "revision": model.revision, "dtype": model.dtype.value}
        self.settings: Mapping[str, Any] = named | _sampling(config)

    @cached_property
    def _target(self) -> TargetModel:
        import torch

        device = self.device
        if device is None:
            on_gpu = torch.cuda.is_available()
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
        with errors_named(f"{self.key}.model cannot be loaded"):
            return load_target(self.config.model, device=device, kind=_Asked)

    def complete_many(self, conversations: Sequence[Messages], seeds: Sequence[int] | None = None) -> Answers:
        target, config = self._target, self.config
        answers: Answers = [NoAnswer("the conversation is longer than the context")] * len(conversations)
        fitting = []
        for place, conversation in enumerate(conversations):
            ids = tuple(self._ids(conversation))
            if target.context_length is None or len(ids) + config.max_tokens <= target.context_length:
                fitting.append(ModelInput("", "", f"{place:09}", ids))
        for batch in plan_batches(fitting, config.batch_size):
            places, sampling = [int(item.row_id) for item in batch], None
            if config.temperature > 0:
                drawn = places if seeds is None else [seeds[place] for place in places]
                sampling = Sampling(config.temperature, config.top_p, zlib.crc32(repr(drawn).encode()))
            written = generate(target, batch, max_new_tokens=config.max_tokens, sampling=sampling)
            for place, generation in zip(places, written, strict=True):
                answers[place] = target.decode(generation.token_ids)
        return answers

    def _ids(self, conversation: Messages) -> list[int]:
        """Ids of the conversation in the model's own template, which may want contents as text, or as a list of parts
        (Llama-Guard-3-1B): whichever it shows whole.
        Raises InputError: neither: the tokenizer has no template, or one that leaves a turn out."""
        cutter = self._target.cutter
        turns = [dict(message) for message in conversation]
        if turns[0]["role"] == "text" or (len(turns) == 1 and not cutter.tokenizer.chat_template):
            return cutter.question_ids(turns)
        marked = [{**turn, "content": f"\ue000turn {i}\ue001"} for i, turn in enumerate(turns)]  # no text holds them
        for written in (lambda text: text, lambda text: [{"type": "text", "text": text}]):
            with contextlib.suppress(InputError, ValueError):  # not for such contents; no template at all
                shown = cutter.question_text([{**turn, "content": written(turn["content"])} for turn in marked])
                if all(turn["content"] in shown for turn in marked):
                    return cutter.question_ids([{**turn, "content": written(turn["content"])} for turn in turns])
        raise InputError(
            f"{self.key}.model={self.config.model.name_or_path}: its tokenizer has no chat template that shows "
            f"{'all turns' if len(turns) > 1 else 'the question'}; take the tokenizer that the model ships with, or "
            f"set {self.key}.model.chat_template"
        )


class _Asked(TargetModel):
    """A model that is only asked: any token will do for padding, which is masked, and its template need not show an
    answer."""

    def _use(self, tokenizer: PreTrainedTokenizerBase, ends: int | list[int] | None) -> None:
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        super()._use(tokenizer, ends)

    @cached_property
    def end_token_ids(self) -> list[int]:
        ends = {self.tokenizer.eos_token_id, *self._configured_ends}
        ends |= {i for token, i in self.tokenizer.get_added_vocab().items() if token in _TURN_ENDS}
        if self.tokenizer.chat_template:
            with contextlib.suppress(InputError):
                ends.add(self.cutter.cut(*HELLO).end)
        return sorted(ends)


def build_chat_model(config: ChatModelConfig, key: str, device: Any = None) -> ChatModel:
    """The model these settings name; `key` is where they stand in the configuration. device: of a local one; None: this
    rank's GPU if there is one.
    Raises InputError: none is named, or its settings cannot be used."""
    if problems := config.problems(key):
        raise InputError.listing("this model cannot be used:", problems)
    if config.kind == "endpoint":
        return EndpointChat(config, key)
    if config.kind == "local":
        return LocalChat(config, key, device)
    raise InputError(f"{key}.kind is {config.kind}: choose a model for it (endpoint, local, miniature)")


def _sampling(config: ChatModelConfig) -> dict[str, Any]:
    return {"temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_tokens}
