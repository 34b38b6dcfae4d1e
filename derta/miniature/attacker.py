"""PAIR's attacker for the miniature: it has no model, it goes through the paraphrases and formats of the world.

It reads the same conversation as a language model would (the request stands on a line of its own) and answers in the
same JSON, so that the whole attack runs on a laptop with nothing but the target model.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from derta.errors import InputError
from derta.miniature.formats import Format, encode_prompt
from derta.miniature.world import QUERY_PARAPHRASES, Item, parse_query

FORMATS = (Format.CHAT, Format.CODE, Format.ROLE_PLAY, Format.CIPHER)
"""Those that are a user's message."""


class ScriptedAttacker:
    """Proposes a form of the request that its conversation has not tried yet, drawn by the seed."""

    settings: Mapping[str, Any] = {"miniature": True}

    def complete_many(
        self, conversations: Sequence[Sequence[Mapping[str, str]]], seeds: Sequence[int] | None = None
    ) -> list[Any]:
        """Answers in the attacker's JSON. Raises InputError: a conversation that holds no query of the miniature."""
        given = seeds if seeds is not None else range(len(conversations))
        return [self._answer(conversation, seed) for conversation, seed in zip(conversations, given, strict=True)]

    def _answer(self, conversation: Sequence[Mapping[str, str]], seed: int) -> str:
        request = _request(conversation)
        tried = {_prompt(message["content"]) for message in conversation if message["role"] == "assistant"}
        forms = list(disguised(request))
        untried = [form for form in forms if form not in tried] or forms
        prompt = random.Random(seed).choice(untried)
        return json.dumps({"improvement": "a form not tried yet", "prompt": prompt})


def disguised(item: Item) -> list[str]:
    """Every other way in which the world can ask for this item in one user message."""
    forms = []
    for paraphrase in range(len(QUERY_PARAPHRASES)):
        query = replace(item, paraphrase=paraphrase).query
        forms += [encode_prompt(query, fmt)[-1]["content"] for fmt in FORMATS]
    return [form for form in forms if form != item.query]


def _request(conversation: Sequence[Mapping[str, str]]) -> Item:
    for message in conversation:
        for line in message["content"].splitlines():
            try:
                return parse_query(line)
            except InputError:
                continue
    raise InputError(
        "the miniature's attacker finds no query of the miniature in its conversation: choose another "
        "eval.attack.pair.attacker.kind for other data"
    )


def _prompt(answer: str) -> str | None:
    try:
        return json.loads(answer)["prompt"]
    except (ValueError, LookupError, TypeError):
        return None
