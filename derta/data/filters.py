"""Which rows are dropped, and why.

Each function answers with the reason (a short name for the manifest) or None to keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from derta.data.recipe import Filters
from derta.data.refusal_text import refuses
from derta.data.schema import Row
from derta.models.messages import Message, is_raw_text


def value_reason(values: Mapping[str, Any], filters: Filters) -> str | None:
    """Filter on a source's own columns: `keep_values` and `drop_values`."""
    for column, kept in filters.keep_values.items():
        if values.get(column) not in kept:
            return f"{column}_not_kept"
    for column, dropped in filters.drop_values.items():
        if values.get(column) in dropped:
            return f"{column}_dropped"
    return None


def _length(messages: list[Message]) -> int:
    return sum(len(message["content"]) for message in messages)


def length_reason(row: Row, filters: Filters) -> str | None:
    """Filter on characters: of all prompt messages together, and of each response there is."""
    prompt = _length(row["prompt"])
    responses = [_length(response) for response in (row["chosen"], row["rejected"]) if response is not None]
    if filters.min_prompt_chars is not None and prompt < filters.min_prompt_chars:
        return "prompt_too_short"
    if filters.max_prompt_chars is not None and prompt > filters.max_prompt_chars:
        return "prompt_too_long"
    if filters.min_response_chars is not None and min(responses) < filters.min_response_chars:
        return "response_too_short"
    if filters.max_response_chars is not None and max(responses) > filters.max_response_chars:
        return "response_too_long"
    return None


def refusal_reason(row: Row, filters: Filters) -> str | None:
    """Filter on refusal phrases anywhere in a response (derta/data/refusal_text.py: a heuristic).

    An expanded MLE row of raw text may be a refusal or an answer, which cannot be told apart, so it is not looked at.
    """
    chosen = row["chosen"][-1]["content"] if row["chosen"] is not None else None
    rejected = row["rejected"][-1]["content"] if row["rejected"] is not None else None
    if rejected is not None and filters.harmful_must_not_refuse and refuses(rejected):
        return "harmful_response_refuses"
    if chosen is None or (rejected is None and is_raw_text(row["prompt"])):
        return None
    if row["kind"] == "safety" and filters.safe_must_refuse and not refuses(chosen):
        return "safe_response_does_not_refuse"
    if row["kind"] == "helpful" and filters.helpful_must_not_refuse and refuses(chosen):
        return "helpful_response_refuses"
    return None
