"""Where a record stands, and what is wrong with it, in words that never reveal its text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where a row came from: a file (or hub id) and the 1-based line, row or item in it."""

    file: str
    number: int
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one field. `reason` is a short stable name for counts in the manifest."""

    field: str
    reason: str
    expected: str
    found: str
    fix: str

    def at(self, place: Place | str) -> str:
        return f"{place}, field '{self.field}': expected {self.expected}, found {self.found}; fix: {self.fix}"


def describe(value: Any, is_name: bool = False) -> str:
    """A value in words that never reveal text: its type and length.

    `is_name` is for what holds a name and no text (a role, a flag, an id): a short plain word is then shown as it is.
    """
    if value is None:
        return "null"
    if isinstance(value, str):
        if not value.strip():
            return "an empty string"
        if is_name and re.fullmatch(r"[A-Za-z0-9_-]{1,40}", value):
            return f"'{value}'"
        return f"a string of {len(value)} characters"
    if isinstance(value, (bool, int, float)):
        return f"{type(value).__name__} {json.dumps(value)}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return f"a value of type {type(value).__name__}"


def text_problem(field: str, value: Any) -> Problem | None:
    """The problem with `value` as a text, if there is one."""
    if not isinstance(value, str):
        reason = "not_a_string"
    elif not value.strip():
        reason = "empty_field"
    else:
        return None
    return Problem(
        field, reason, "a non-empty string", describe(value), "fill the field or remove the row (on_invalid: drop)"
    )


@dataclass(frozen=True)
class Record:
    """One object of a source file (or row of a hub dataset) and where it stands."""

    place: Place
    values: Mapping[str, Any]
