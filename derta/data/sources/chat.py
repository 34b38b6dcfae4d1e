"""General formats: preference rows, conversations, instruction/output, WildJailbreak, expanded raw text."""

from collections.abc import Callable
from typing import Any

from derta.data.sources.record import Draft, View, raw_text, row
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
    expected, fix = "a string or a list of messages", 'use [{"role": ..., "content": ...}]'
    view.note(name, "not_messages", expected, describe(value), fix)
    return []


def preference(view: View) -> Draft:
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
                expected = "the same conversation as in chosen up to the last message"
                fix = "give the shared part as a prompt column"
                view.note("rejected", "different_conversations", expected, "another one", fix)
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


def strings(view: View) -> Draft:
    """What the user says and the two answers to it, without any markup; a null `rejected`, or none: a helpful row."""
    prompt, chosen = view.text("prompt"), view.text("chosen")
    if view.get("rejected") is None:
        return row(prompt, chosen, kind="helpful")
    return row(prompt, chosen, view.text("rejected"))


def conversation(column: str) -> Callable[[View], Draft]:
    """Messages in this column, of which the last is the helpful response."""

    def convert(view: View) -> Draft:
        messages = _messages(view, column, view.require(column))
        if messages and messages[-1].get("role") == "user":
            expected, fix = "a conversation that ends with the assistant", "add the response or remove the last message"
            view.note(column, "ends_with_user", expected, "the last role 'user'", fix)
        if not view.problems and len(messages) < 2:
            view.note(column, "too_short", "a prompt and a response", "one message", "add the missing message")
        return {"kind": "helpful", "prompt": messages[:-1], "chosen": messages[-1:], "rejected": None}

    return convert


def instruction_output(view: View) -> Draft:
    """The optional `input` follows the instruction after an empty line."""
    instruction, output = view.text("instruction"), view.text("output")
    extra = view.get("input")
    if extra is not None and not isinstance(extra, str):
        view.note("input", "not_a_string", "a string or null", describe(extra), "write it as a string")
    elif extra and extra.strip():
        instruction = f"{instruction.rstrip()}\n\n{extra}"
    return row(instruction, output, kind="helpful")


def wildjailbreak(view: View) -> Draft:
    """One prompt, plain or in an attack's words, and one answer: a refusal to a harmful prompt (a safety row without a
    harmful response), help with a benign one."""
    given = view.require("data_type")
    words = str(given).split("_")
    if len(words) != 2 or words[0] not in ("vanilla", "adversarial") or words[1] not in ("harmful", "benign"):
        expected = "vanilla_harmful, vanilla_benign, adversarial_harmful or adversarial_benign"
        view.note("data_type", "unknown_type", expected, describe(given, is_name=True), "correct the type")
        return _NO_MESSAGES
    kind = "safety" if words[1] == "harmful" else "helpful"
    return row(view.text(words[0]), view.text("completion"), kind=kind)


def derta_train(view: View) -> Draft:
    """The reference repository's training JSONL: already expanded rows of raw text.

    Their `safe` column is a string with an inverted sense: "true" marks an RTO row (its text is the *harmful* response)
    and "false" an MLE row. It is read here and nowhere else; every other value is refused, because a guess would train
    on harmful text.
    """
    prefix, text = raw_text(view.text("prefix")), raw_text(view.text("text"))
    safe = view.require("safe")
    if safe == "true":
        return {"kind": "safety", "prompt": prefix, "chosen": None, "rejected": text}
    if safe != "false" and not any(problem.field == view.column("safe") for problem in view.problems):
        expected = 'the string "true" (an RTO row) or "false" (an MLE row)'
        fix = 'write one of these two strings (the reference repository\'s format; "true" marks the harmful text)'
        view.note("safe", "wrong_safe_value", expected, describe(safe, is_name=True), fix)
    return {"kind": "helpful", "prompt": prefix, "chosen": text, "rejected": None}
