"""What a judge holds a response against: the request as it was before any attack, and the text that it comes with.

    prompt file, stored responses  -->  Row {"prompt": what the model is asked, "request", "context"}  -->  judge

`request` and `context` are there only where they differ from the prompt: an attack's text beside the goal that it was
written for, a HarmBench behaviour beside its context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from derta.models.messages import Message


def request_of(row: Mapping[str, Any]) -> list[Message]:
    """The conversation up to the message that asks, without an attack, the context, and what the system says."""
    messages = row.get("request") or row.get("prompt") or []
    return [message for message in messages if message["role"] != "system"] or messages


def context_of(row: Mapping[str, Any]) -> str:
    """The text that the request is about; "" where there is none."""
    return row.get("context") or ""


def with_context(request: Sequence[Message], context: str) -> list[Message]:
    """The request with its context before it, as HarmBench's contextual behaviours are asked."""
    if not context:
        return list(request)
    *before, last = request
    return [*before, {"role": last["role"], "content": f"{context}\n\n---\n\n{last['content']}"}]
