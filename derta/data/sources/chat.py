"""General chat formats: TRL preference rows, `messages`, and instruction/output."""

from __future__ import annotations

from typing import Any

from derta.data.sources.record import Adapter, Draft, Skip, View, assistant, raw_text, user
from derta.storage.places import describe

_NO_MESSAGES: Draft = {"kind": "helpful", "prompt": [], "chosen": None, "rejected": None}


def _messages(view: View, name: str, value: Any) -> list[Any]:
    """A conversation; what stands inside the messages is checked by the row schema."""
    if isinstance(value, list) and value and all(isinstance(message, dict) for message in value):
        return [{key: message[key] for key in message} for message in value]
    view.note(
        name, "not_messages", "a string or a list of messages", describe(value), 'use [{"role": ..., "content": ...}]'
    )
    return []


def _convert_preference(view: View) -> Draft | Skip:
    """`chosen` is the safe response, `rejected` the harmful one; a null `rejected`, or none, makes a helpful row.

    Three shapes (TRL's): plain strings, which are raw text; a conversation in each column; and no prompt column, where
    chosen and rejected hold the whole conversation and share everything but the last message.
    """
    chosen, rejected = view.require("chosen"), view.get("rejected")
    if view.problems:
        return _NO_MESSAGES
    prompt = view.get("prompt")
    if isinstance(chosen, str):
        draft_prompt = raw_text(view.text("prompt"))
        draft_chosen = raw_text(view.text("chosen"))
        draft_rejected = None if rejected is None else raw_text(view.text("rejected"))
    else:
        draft_chosen = _messages(view, "chosen", chosen)
        draft_rejected = None if rejected is None else _messages(view, "rejected", rejected)
        if prompt is None:
            draft_prompt = draft_chosen[:-1]
            if draft_rejected and draft_rejected[:-1] != draft_prompt:
                view.note(
                    "rejected",
                    "different_conversations",
                    "the same conversation as in chosen up to the last message",
                    "another one",
                    "give the shared part as a prompt column",
                )
            draft_chosen, draft_rejected = draft_chosen[-1:], draft_rejected and draft_rejected[-1:]
        elif isinstance(prompt, str):
            fix = "write all of them as messages, or all as plain strings"
            view.note("prompt", "mixed_raw_text", "messages, as the responses are", describe(prompt), fix)
            draft_prompt = []
        else:
            draft_prompt = _messages(view, "prompt", prompt)
    kind = "helpful" if draft_rejected is None else "safety"
    return {"kind": kind, "prompt": draft_prompt, "chosen": draft_chosen, "rejected": draft_rejected}


def _convert_messages(view: View) -> Draft | Skip:
    """A conversation whose last message is the helpful response."""
    messages = _messages(view, "messages", view.require("messages"))
    if messages and messages[-1].get("role") == "user":
        view.note(
            "messages",
            "ends_with_user",
            "a conversation that ends with the assistant",
            "the last role 'user'",
            "add the response or remove the last message",
        )
    if not view.problems and len(messages) < 2:
        view.note("messages", "too_short", "a prompt and a response", "one message", "add the missing message")
    return {"kind": "helpful", "prompt": messages[:-1], "chosen": messages[-1:], "rejected": None}


def _convert_instruction(view: View) -> Draft | Skip:
    """The optional `input` follows the instruction after an empty line."""
    instruction, output = view.text("instruction"), view.text("output")
    extra = view.get("input")
    if extra is not None and not isinstance(extra, str):
        view.note("input", "not_a_string", "a string or null", describe(extra), "write it as a string")
    elif extra and extra.strip():
        instruction = f"{instruction.rstrip()}\n\n{extra}"
    return {"kind": "helpful", "prompt": user(instruction), "chosen": assistant(output), "rejected": None}


PREFERENCE = Adapter(
    columns=("chosen",),
    optional=("prompt", "id"),
    somewhere=("rejected",),
    convert=_convert_preference,
    summary="TRL preference rows: chosen = safe, rejected = harmful (none: a helpful row); plain or conversational",
)
MESSAGES = Adapter(
    columns=("messages",),
    optional=("id",),
    convert=_convert_messages,
    summary="conversations; the last message is the helpful response",
)
INSTRUCTION_OUTPUT = Adapter(
    columns=("instruction", "output"),
    optional=("input", "id"),
    convert=_convert_instruction,
    summary="instruction, optional input, helpful output",
)
