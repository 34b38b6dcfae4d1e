"""Where a record stands, and what is wrong with it, in words that never reveal its text."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from derta.errors import InputError


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


def string_problem(field: str, value: Any, remove: str = "remove the row") -> Problem | None:
    """The problem with `value` as a string, if there is one. JSON can spell half a character ("\\ud83d"), which no
    tokenizer and no UTF-8 file takes."""
    if not isinstance(value, str):
        return Problem(field, "not_a_string", "a string", describe(value), f"write it as a string or {remove}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"half a character (a lone surrogate) at place {error.start + 1}"
        return Problem(field, "half_a_character", "whole characters", found, f"correct the text or {remove}")
    return None


def text_problem(field: str, value: Any, remove: str = "remove the row (on_invalid: drop)") -> Problem | None:
    """The problem with `value` as a text that says something, if there is one. `remove`: how to be rid of the row;
    by default in the words of a recipe."""
    if isinstance(value, str) and value.strip():
        return string_problem(field, value, remove)
    reason = "empty_field" if isinstance(value, str) else "not_a_string"
    return Problem(field, reason, "a non-empty string", describe(value), f"fill the field or {remove}")


def column_names(names: Iterable[Any]) -> str:
    """The names of columns, sorted, for messages. A file without a header has a row's text in place of one, so only
    what looks like a name is shown."""
    return ", ".join(sorted(describe(str(name), is_name=True).strip("'") for name in names)) or "(none)"


def refuse_twins(where: str, names: Sequence[str]) -> None:
    """Raises InputError for columns of one name; `where`: file, and line where there is one."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{where}: expected every column once, found {column_names(twice)} more than once; fix: rename or remove "
            "the others"
        )


@dataclass(frozen=True)
class Record:
    """One object of a source file (or row of a hub dataset) and where it stands."""

    place: Place
    values: Mapping[str, Any]
