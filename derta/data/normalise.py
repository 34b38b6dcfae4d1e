"""What the builder changes in a text, exactly.

Chat messages: Unicode NFC; "\\r\\n" and "\\r" become "\\n"; whitespace at both ends is removed (a leading space in a
response would change its first token, and with it the refusal token). Nothing inside the text is touched.

Raw text messages (role "text") are left as they are: their spaces and special tokens are part of the data.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from derta.models.messages import TEXT_ROLE

_NOT_A_WORD = re.compile(r"[\W_]+")


def normalise_text(text: str) -> str:
    """One chat message's content, normalised as the module docstring says."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def normalise_messages(messages: Any) -> Any:
    """A list of messages with normalised content.

    What is not a well-formed message is left for validation to report.
    """
    if not isinstance(messages, list):
        return messages
    return [_normalise_message(message) for message in messages]


def _normalise_message(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    changed = dict(message)
    if isinstance(changed.get("content"), str) and changed.get("role") != TEXT_ROLE:
        changed["content"] = normalise_text(changed["content"])
    return changed


def words(text: str) -> list[str]:
    """The words of a text for comparison: NFKC, case-folded, split at everything that is not a letter or digit."""
    return _NOT_A_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split()


def prompt_key(messages: Iterable[Mapping[str, str]]) -> str:
    """What makes two prompts the same: roles and words of every message, regardless of case, spacing and punctuation.

    A prompt with no letters or digits at all is compared by its exact text.
    """
    return "\n".join(f"{m['role']}: {' '.join(words(m['content'])) or m['content']}" for m in messages)
