"""The one row schema between the data builder and everything after it.

    {"id": "safety-3f0c...", "source": "safety", "kind": "safety",
     "prompt":   [{"role": "user", "content": "<request>"}],
     "chosen":   [{"role": "assistant", "content": "<safe or helpful response>"}],
     "rejected": [{"role": "assistant", "content": "<harmful response>"}]}

kind "safety" with both responses is a triple (a TRL preference row), with `rejected: None` a refusal without a harmful
response beside it; kind "helpful" has `rejected: None`;
`chosen: None` is only for an already expanded RTO row, whose `rejected` is then set. In a *raw text* row every message
has the role "text": its content is used verbatim, without a chat template.

Nothing here prints the text of a row: problems name file, line and field, because the text may be harmful.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypedDict

from derta.models.messages import TEXT_ROLE, Message
from derta.storage.places import Problem, describe, text_problem

KINDS = ("safety", "helpful")
CHAT_ROLES = ("system", "user", "assistant", "tool")
FIELDS = ("id", "source", "kind", "prompt", "chosen", "rejected")


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
    """Everything wrong with one row; an empty list means the row keeps the schema of this module."""
    fix_columns = "see the row schema in derta/data/schema.py"
    problems = [
        Problem(name, "missing_column", "the field to be there", "no such field", fix_columns)
        for name in FIELDS
        if name not in row
    ]
    problems += [
        Problem(str(name), "unknown_field", f"only the fields {', '.join(FIELDS)}", "another field", "remove it")
        for name in row
        if name not in FIELDS
    ]
    if problems:
        return problems
    for name in ("id", "source"):
        problem = text_problem(name, row[name])
        if problem:
            problems.append(problem)
    if row["kind"] not in KINDS:
        problems.append(
            Problem(
                "kind", "unknown_kind", " or ".join(KINDS), describe(row["kind"], is_name=True), "set one of these two"
            )
        )
    if row["chosen"] is None and row["rejected"] is None:
        problems.append(
            Problem(
                "chosen", "no_response", "a response in chosen or rejected", "null in both", "give one or remove it"
            )
        )
    roles: set[str] = set()
    for name in ("prompt", "chosen", "rejected"):
        if row[name] is not None or name == "prompt":
            problems += _message_problems(name, row[name], roles)
    if problems:
        return problems
    problems += _role_problems(row, roles)
    if row["kind"] == "helpful" and (row["rejected"] is not None or row["chosen"] is None):
        problems.append(
            Problem(
                "rejected",
                "helpful_with_rejected",
                "null (a helpful row has no harmful response)",
                describe(row["rejected"]),
                "set kind to safety, or rejected to null",
            )
        )
    if row["chosen"] is not None and row["rejected"] is not None:
        if [m["content"].strip() for m in row["chosen"]] == [m["content"].strip() for m in row["rejected"]]:
            problems.append(
                Problem(
                    "rejected",
                    "same_responses",
                    "a harmful response that differs from the safe one",
                    "the same text in both",
                    "correct one of them or remove the row (on_invalid: drop)",
                )
            )
    return problems


def _message_problems(field: str, messages: Any, roles: set[str]) -> list[Problem]:
    """Problems inside one list of messages; adds the roles it saw to `roles`."""
    if not isinstance(messages, list) or not messages:
        found = "an empty list" if messages == [] else describe(messages)
        return [
            Problem(field, "not_messages", "a non-empty list of messages", found, 'use [{"role": ..., "content": ...}]')
        ]
    problems = []
    for index, message in enumerate(messages):
        where = f"{field}[{index}]"
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            keys = (
                ", ".join(sorted(describe(key, is_name=True) for key in message))
                if isinstance(message, Mapping)
                else ""
            )
            found = f"the keys {keys or '(none)'}" if isinstance(message, Mapping) else describe(message)
            problems.append(
                Problem(where, "not_a_message", "an object with exactly role and content", found, "correct the message")
            )
            continue
        if message["role"] not in (*CHAT_ROLES, TEXT_ROLE):
            problems.append(
                Problem(
                    f"{where}.role",
                    "unknown_role",
                    f"one of {', '.join(CHAT_ROLES)} (or {TEXT_ROLE} for raw text)",
                    describe(message["role"], is_name=True),
                    "rename the role",
                )
            )
        else:
            roles.add(message["role"])
        problem = text_problem(f"{where}.content", message["content"])
        if problem:
            problems.append(problem)
    return problems


def _role_problems(row: Mapping[str, Any], roles: set[str]) -> list[Problem]:
    """The prompt ends with the user and a response is one assistant message; raw text is raw throughout."""
    if TEXT_ROLE in roles:
        if roles == {TEXT_ROLE}:
            return []
        return [
            Problem(
                "prompt",
                "mixed_raw_text",
                f"the role {TEXT_ROLE} in every message of a raw text row",
                "chat roles beside it",
                "use either raw text or chat messages in one row",
            )
        ]
    problems = []
    if row["prompt"][-1]["role"] != "user":
        problems.append(
            Problem(
                "prompt",
                "prompt_not_user",
                "messages that end with the user",
                f"the last role '{row['prompt'][-1]['role']}'",
                "move the last message into the response or remove it",
            )
        )
    for name in ("chosen", "rejected"):
        response = row[name]
        if response is not None and [message["role"] for message in response] != ["assistant"]:
            problems.append(
                Problem(
                    name,
                    "response_not_assistant",
                    "exactly one assistant message",
                    "the roles " + ", ".join(message["role"] for message in response),
                    "end the conversation with one assistant message",
                )
            )
    return problems


def duplicate_id(name: str) -> Problem:
    """The problem of an id that another row already has."""
    return Problem(
        "id", "duplicate_id", "an id that no other row has", f"{describe(name, is_name=True)} again", "make ids unique"
    )
