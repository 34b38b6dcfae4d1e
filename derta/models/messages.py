"""Messages of a conversation; a message with the role "text" is raw text, used without a chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

TEXT_ROLE = "text"


class Message(TypedDict):
    role: str
    content: str


def is_raw_text(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a prompt or response is used verbatim, without a chat template."""
    return bool(messages) and messages[0]["role"] == TEXT_ROLE  # raw text is raw throughout, see _role_problems
