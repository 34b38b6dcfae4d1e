"""Models that help an attack: they rewrite queries or rate answers. Behind an endpoint, or in this process.

conversations (messages ending with the user) -> answers, or EndpointErrors, which the attack counts
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from derta.config.attacks import ChatModelConfig, ChatModelKind
from derta.errors import InputError
from derta.models.endpoint import Endpoint, EndpointError, Messages
from derta.models.generation import generate
from derta.models.inputs import ModelInput, Sampling

if TYPE_CHECKING:
    from derta.models.target import TargetModel


class ChatModel(Protocol):
    """`settings` is what the model is recognised by, as JSON."""

    settings: Mapping[str, Any]

    def complete_many(self, conversations: Sequence[Messages], seeds: Sequence[int]) -> list[str | EndpointError]:
        """One answer per conversation, in their order; the same conversations and seeds are answered alike (by an
        endpoint: as far as its server keeps to that)."""
        ...


class EndpointChat:
    """A chat-completions endpoint with fixed sampling settings."""

    def __init__(self, config: ChatModelConfig, key: str):
        self.config = config
        self.endpoint = Endpoint(config.endpoint, f"{key}.endpoint")
        self.settings: Mapping[str, Any] = {
            "url": config.endpoint.url,
            "model": config.endpoint.model,
            **_sampling(config),
        }

    def complete_many(self, conversations: Sequence[Messages], seeds: Sequence[int]) -> list[str | EndpointError]:
        config = self.config
        return self.endpoint.complete_many(
            conversations,
            seeds=seeds,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
        )


class LocalChat:
    """A Hugging Face model in this process, loaded with the first conversation."""

    def __init__(self, config: ChatModelConfig, device: Any = "cpu"):
        self.config, self.device = config, device
        self._target: TargetModel | None = None
        model = config.model
        self.settings: Mapping[str, Any] = {
            "name_or_path": model.name_or_path,
            "revision": model.revision,
            "dtype": model.dtype.value,
            **({"template_date": model.template_date} if model.template_date else {}),
            **_sampling(config),
        }

    def complete_many(self, conversations: Sequence[Messages], seeds: Sequence[int]) -> list[str | EndpointError]:
        from derta.models.target import load_target

        if self._target is None:
            self._target = load_target(self.config.model, device=self.device)
        target, config = self._target, self.config
        answers: list[str | EndpointError] = [EndpointError("the conversation is longer than the context")] * len(seeds)
        fitting = []
        for place, conversation in enumerate(conversations):
            ids = tuple(target.cutter.prompt_ids([dict(message) for message in conversation]))
            if target.context_length is None or len(ids) + config.max_tokens <= target.context_length:
                fitting.append((place, ModelInput("", "", str(place), ids)))
        for start in range(0, len(fitting), config.batch_size):
            batch = fitting[start : start + config.batch_size]
            sampling = None
            if config.temperature > 0:
                seed = zlib.crc32(repr([seeds[place] for place, _ in batch]).encode())
                sampling = Sampling(config.temperature, config.top_p, seed)
            items = [item for _, item in batch]
            written = generate(target, items, max_new_tokens=config.max_tokens, sampling=sampling)
            for (place, _), generation in zip(batch, written, strict=True):
                answers[place] = target.decode(generation.token_ids)
        return answers


def build_chat_model(config: ChatModelConfig, key: str, device: Any = "cpu") -> ChatModel:
    """The model these settings name; `key` is where they stand in the configuration.

    Raises:
        InputError: none is named, or its settings cannot be used.
    """
    if problems := config.problems(key):
        raise InputError.listing("this model cannot be used:", problems)
    if config.kind is ChatModelKind.endpoint:
        return EndpointChat(config, key)
    if config.kind is ChatModelKind.local:
        return LocalChat(config, device)
    if config.kind is ChatModelKind.miniature:
        from derta.miniature.attacker import ScriptedAttacker

        return ScriptedAttacker()
    kinds = ", ".join(kind.value for kind in ChatModelKind if kind is not ChatModelKind.none)
    raise InputError(f"{key}.kind is none: choose a model for it ({kinds})")


def _sampling(config: ChatModelConfig) -> dict[str, Any]:
    return {"temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_tokens}
