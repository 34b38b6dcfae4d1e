"""General chat formats: preference rows, conversations, instruction/output, WildJailbreak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from derta.data.sources.record import Adapter, Draft, Skip, View, assistant, raw_text, user
from derta.models.messages import as_messages
from derta.storage.places import describe

_NO_MESSAGES: Draft = {"kind": "helpful", "prompt": [], "chosen": None, "rejected": None}


def _messages(view: View, name: str, value: Any) -> list[Any]:
    """A conversation, in any of the ways to write one; what stands inside the messages is checked by the row schema."""
    messages: list[Any] | None = as_messages(value)
    if isinstance(value, list) and value and all(isinstance(message, dict) for message in value):
        if messages is None or "role" in value[0]:  # with all that is in them, so that the schema sees it
            messages = [dict(message) for message in value]
    if messages is not None:
        return messages
    view.note(
        name, "not_messages", "a string or a list of messages", describe(value), 'use [{"role": ..., "content": ...}]'
    )
    return []


def _convert_preference(view: View) -> Draft | Skip:
    """`chosen` is the safe response, `rejected` the harmful one; a null `rejected`, or none, makes a helpful row.

    Three shapes: plain strings, which are raw text (TRL's rule); a conversation in each column; and the whole
    conversation in chosen and rejected, which share everything but the last message: without a prompt column, or with
    its text repeated there (UltraFeedback). Conversations may be strings with turns (hh-rlhf).
    """
    chosen, rejected, prompt = view.require("chosen"), view.get("rejected"), view.get("prompt")
    if view.problems:
        return _NO_MESSAGES
    if isinstance(chosen, str) and not (prompt is None and as_messages(chosen)):
        draft_prompt = raw_text(view.text("prompt"))
        draft_chosen = raw_text(view.text("chosen"))
        draft_rejected = None if rejected is None else raw_text(view.text("rejected"))
    else:
        draft_chosen = _messages(view, "chosen", chosen)
        draft_rejected = None if rejected is None else _messages(view, "rejected", rejected)
        if prompt is None or isinstance(prompt, str) and len(draft_chosen) > 1:
            draft_prompt = draft_chosen[:-1]
            if draft_rejected and draft_rejected[:-1] != draft_prompt:
                view.note(
                    "rejected",
                    "different_conversations",
                    "the same conversation as in chosen up to the last message",
                    "another one",
                    "give the shared part as a prompt column",
                )
            if prompt is not None and prompt.strip() not in [str(one.get("content")).strip() for one in draft_prompt]:
                fix = "correct it, or ignore the column: columns: {prompt: null}"
                view.note("prompt", "different_conversations", "a message of the conversation", "another text", fix)
            draft_chosen, draft_rejected = draft_chosen[-1:], draft_rejected and draft_rejected[-1:]
        elif isinstance(prompt, str):
            fix = "write all of them as messages, or all as plain strings"
            view.note("prompt", "mixed_raw_text", "messages, as the responses are", describe(prompt), fix)
            draft_prompt = []
        else:
            draft_prompt = _messages(view, "prompt", prompt)
    kind = "helpful" if draft_rejected is None else "safety"
    return {"kind": kind, "prompt": draft_prompt, "chosen": draft_chosen, "rejected": draft_rejected}


def _convert_strings(view: View) -> Draft:
    """What the user says and the two answers to it, without any markup; a null `rejected`, or none: a helpful row."""
    prompt, chosen = user(view.text("prompt")), assistant(view.text("chosen"))
    rejected = None if view.get("rejected") is None else assistant(view.text("rejected"))
    return {
        "kind": "helpful" if rejected is None else "safety",
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
    }


def _conversation(column: str) -> Callable[[View], Draft]:
    def convert(view: View) -> Draft:
        messages = _messages(view, column, view.require(column))
        if messages and messages[-1].get("role") == "user":
            view.note(
                column,
                "ends_with_user",
                "a conversation that ends with the assistant",
                "the last role 'user'",
                "add the response or remove the last message",
            )
        if not view.problems and len(messages) < 2:
            view.note(column, "too_short", "a prompt and a response", "one message", "add the missing message")
        return {"kind": "helpful", "prompt": messages[:-1], "chosen": messages[-1:], "rejected": None}

    return convert


def _convert_instruction(view: View) -> Draft | Skip:
    """The optional `input` follows the instruction after an empty line."""
    instruction, output = view.text("instruction"), view.text("output")
    extra = view.get("input")
    if extra is not None and not isinstance(extra, str):
        view.note("input", "not_a_string", "a string or null", describe(extra), "write it as a string")
    elif extra and extra.strip():
        instruction = f"{instruction.rstrip()}\n\n{extra}"
    return {"kind": "helpful", "prompt": user(instruction), "chosen": assistant(output), "rejected": None}


def _convert_wildjailbreak(view: View) -> Draft:
    """One prompt, plain or in an attack's words, and one answer: a refusal to a harmful prompt (a safety row without a
    harmful response), help with a benign one."""
    kind = view.require("data_type")
    words = str(kind).split("_")
    if len(words) != 2 or words[0] not in ("vanilla", "adversarial") or words[1] not in ("harmful", "benign"):
        expected = "vanilla_harmful, vanilla_benign, adversarial_harmful or adversarial_benign"
        view.note("data_type", "unknown_type", expected, describe(kind, is_name=True), "correct the type")
        return _NO_MESSAGES
    return {
        "kind": "safety" if words[1] == "harmful" else "helpful",
        "prompt": user(view.text(words[0])),
        "chosen": assistant(view.text("completion")),
        "rejected": None,
    }


PREFERENCE = Adapter(
    columns=("chosen",),
    optional=("prompt", "id"),
    somewhere=("rejected",),
    convert=_convert_preference,
    summary="TRL preference rows: chosen = safe, rejected = harmful (none: a helpful row); plain or conversational",
)
STRINGS = Adapter(
    columns=("prompt", "chosen"),
    optional=("id",),
    somewhere=("rejected",),
    convert=_convert_strings,
    summary="the same as plain strings that are no raw text: one message of the user and one of the assistant",
)
MESSAGES = Adapter(
    columns=("messages",),
    optional=("id",),
    convert=_conversation("messages"),
    summary="conversations; the last message is the helpful response",
)
SHAREGPT = Adapter(
    columns=("conversations",),
    optional=("id",),
    convert=_conversation("conversations"),
    summary="the same, as from and value",
)
WILDJAILBREAK = Adapter(
    columns=("vanilla", "adversarial", "completion", "data_type"),
    convert=_convert_wildjailbreak,
    summary="WildJailbreak's training file: refusals of harmful prompts, help with benign ones",
)
INSTRUCTION_OUTPUT = Adapter(
    columns=("instruction", "output"),
    optional=("input", "id"),
    convert=_convert_instruction,
    summary="instruction, optional input, helpful output",
)
