"""The one row schema between the data builder and everything after it.

    {"id": "safety-3f0c...", "source": "safety", "kind": "safety",
     "prompt":   [{"role": "user", "content": "<request>"}],
     "chosen":   [{"role": "assistant", "content": "<safe or helpful response>"}],
     "rejected": [{"role": "assistant", "content": "<harmful response>"}]}

kind "safety" with both responses is a triple (a TRL preference row), with `rejected: None` a refusal without a harmful
response beside it; kind "helpful" has `rejected: None`; `chosen: None` is only for an already expanded RTO row, whose
`rejected` is then set. In a *raw text* row every message
has the role "text": its content is used verbatim, without a chat template.

Nothing here prints the text of a row: problems name file, line and field, because the text may be harmful.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from derta.models.messages import TEXT_ROLE, Message
from derta.storage.places import Problem, describe, text_problem

KINDS = ("safety", "helpful")
CHAT_ROLES = ("system", "user", "assistant", "tool")


class Row(TypedDict):
    id: str
    source: str
    kind: str
    prompt: list[Message]
    chosen: list[Message] | None
    rejected: list[Message] | None


def row_id(source: str, prompt: Any, chosen: Any, rejected: Any) -> str:
    """A stable id from the source name and everything the row says: source name plus 64 bits of sha256."""
    text = json.dumps([source, prompt, chosen, rejected], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return f"{source}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def row_problems(row: Mapping[str, Any]) -> list[Problem]:
    """Everything wrong with what a row holds; an empty list means it keeps the schema of this module."""
    return list(_content_problems(row)) or list(_role_problems(row))


def _content_problems(row: Mapping[str, Any]) -> Iterator[Problem]:
    if row["kind"] not in KINDS:
        found = describe(row["kind"], is_name=True)
        yield Problem("kind", "unknown_kind", " or ".join(KINDS), found, "set one of these two")
    if row["chosen"] is None and row["rejected"] is None:
        expected, fix = "a response in chosen or rejected", "give one or remove it"
        yield Problem("chosen", "no_response", expected, "null in both", fix)
    for name in ("prompt", "chosen", "rejected"):
        if row[name] is not None or name == "prompt":
            yield from _message_problems(name, row[name])


def _message_problems(field: str, messages: Any) -> Iterator[Problem]:
    """Problems inside one list of messages."""
    if not isinstance(messages, list) or not messages:
        found = "an empty list" if messages == [] else describe(messages)
        expected, fix = "a non-empty list of messages", 'use [{"role": ..., "content": ...}]'
        yield Problem(field, "not_messages", expected, found, fix)
        return
    for index, message in enumerate(messages):
        where = f"{field}[{index}]"
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            found = describe(message)
            if isinstance(message, Mapping):
                keys = sorted(describe(key, is_name=True) for key in message)
                found = f"the keys {', '.join(keys) or '(none)'}"
            expected = "an object with exactly role and content"
            yield Problem(where, "not_a_message", expected, found, "correct the message")
            continue
        if message["role"] not in (*CHAT_ROLES, TEXT_ROLE):
            expected = f"one of {', '.join(CHAT_ROLES)} (or {TEXT_ROLE} for raw text)"
            found = describe(message["role"], is_name=True)
            yield Problem(f"{where}.role", "unknown_role", expected, found, "rename the role")
        if problem := text_problem(f"{where}.content", message["content"]):
            yield problem


def _role_problems(row: Mapping[str, Any]) -> Iterator[Problem]:
    """The prompt ends with the user and a response is one assistant message; raw text is raw throughout; what each
    kind of row holds."""
    roles = {name: [message["role"] for message in row[name] or []] for name in ("prompt", "chosen", "rejected")}
    together = {role for some in roles.values() for role in some}
    if TEXT_ROLE in together:
        if together != {TEXT_ROLE}:
            expected = f"the role {TEXT_ROLE} in every message of a raw text row"
            fix = "use either raw text or chat messages in one row"
            yield Problem("prompt", "mixed_raw_text", expected, "chat roles beside it", fix)
    else:
        if roles["prompt"][-1] != "user":
            expected, fix = "messages that end with the user", "move the last message into the response or remove it"
            yield Problem("prompt", "prompt_not_user", expected, f"the last role '{roles['prompt'][-1]}'", fix)
        for name in ("chosen", "rejected"):
            if roles[name] not in ([], ["assistant"]):
                expected, fix = "exactly one assistant message", "end the conversation with one assistant message"
                yield Problem(name, "response_not_assistant", expected, f"the roles {', '.join(roles[name])}", fix)
    if row["kind"] == "helpful" and (row["rejected"] is not None or row["chosen"] is None):
        expected, fix = "null (a helpful row has no harmful response)", "set kind to safety, or rejected to null"
        yield Problem("rejected", "helpful_with_rejected", expected, describe(row["rejected"]), fix)
    if row["chosen"] is not None and row["rejected"] is not None:
        safe, harmful = ([message["content"].strip() for message in row[name]] for name in ("chosen", "rejected"))
        if safe == harmful:
            expected = "a harmful response that differs from the safe one"
            fix = "correct one of them or remove the row (on_invalid: drop)"
            yield Problem("rejected", "same_responses", expected, "the same text in both", fix)


def duplicate_id(name: str) -> Problem:
    """The problem of an id that another row already has."""
    found = f"{describe(name, is_name=True)} again"
    return Problem("id", "duplicate_id", "an id that no other row has", found, "make ids unique")
