"""Messages of a conversation; a message with the role "text" is raw text, used without a chat template.

Public files write conversations in three ways, and `as_messages` reads them all:

    [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]
    [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]                   ShareGPT
    "\\n\\nHuman: ...\\n\\nAssistant: ..."                                                     hh-rlhf, one string
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

TEXT_ROLE = "text"
_SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
_TURN = re.compile(r"\n\n(Human|Assistant):[ \n]?")


class Message(TypedDict):
    role: str
    content: str


def is_raw_text(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a prompt or response is used verbatim, without a chat template."""
    return bool(messages) and messages[0]["role"] == TEXT_ROLE  # raw text is raw throughout, see _role_problems


def as_messages(value: Any) -> list[Message] | None:
    """A conversation as messages; None where `value` is none. Contents are left as they are, strings or not."""
    if isinstance(value, str):
        _, *turns = _TURN.split(value)
        if not turns or not value.startswith("\n\n"):
            return None
        speakers = {"Human": "user", "Assistant": "assistant"}
        return [{"role": speakers[name], "content": text} for name, text in zip(turns[::2], turns[1::2], strict=True)]
    if not isinstance(value, Sequence) or not value or not all(isinstance(one, Mapping) for one in value):
        return None
    if all({"role", "content"} <= one.keys() for one in value):
        return [{"role": one["role"], "content": one["content"]} for one in value]
    if all({"from", "value"} <= one.keys() for one in value):
        return [
            {"role": _SPEAKERS.get(str(one["from"]).lower(), one["from"]), "content": one["value"]} for one in value
        ]
    return None


def written(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation as one text: a message alone as it is, several with their speakers."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
