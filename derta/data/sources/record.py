"""A record as it was read, and the view of it that an adapter sees."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from derta.models.messages import TEXT_ROLE, Message
from derta.storage.places import Problem, Record, column_names, describe, text_problem


class Draft(TypedDict):
    """What an adapter makes of a record: a row (see derta/data/schema.py) without its id and source."""

    kind: str
    prompt: list[Message]
    chosen: list[Message] | None
    rejected: list[Message] | None


@dataclass(frozen=True)
class Skip:
    """The record is fine but gives no row (for example: both responses are safe). The reason is counted."""

    reason: str


class View:
    """A record under the adapter's own column names; a column that is mapped to None is not there.

    Reading a bad value notes a problem and goes on, so that all are found.
    """

    def __init__(self, values: Mapping[str, Any], columns: Mapping[str, str | None]):
        self._values = values
        self._columns = columns
        self.problems: list[Problem] = []

    def column(self, name: str) -> str:
        """The record's name for the adapter's column `name`."""
        return self._columns.get(name) or name

    def get(self, name: str) -> Any:
        """The value, or None where the column is missing or to be ignored."""
        return None if self._columns.get(name, name) is None else self._values.get(self.column(name))

    def note(self, name: str, reason: str, expected: str, found: str, fix: str) -> None:
        """Note a problem with one column."""
        self.problems.append(Problem(self.column(name), reason, expected, found, fix))

    def require(self, name: str) -> Any:
        """The value of a column that must be there."""
        if self.column(name) not in self._values:
            self.problems.append(missing_column(name, self.column(name), self._values))
        return self.get(name)

    def text(self, name: str) -> str:
        """A non-empty string ("" after noting a problem)."""
        value = self.require(name)
        problem = text_problem(self.column(name), value)
        if problem and self.column(name) in self._values:
            self.problems.append(problem)
        return "" if problem else str(value)

    def flag(self, name: str) -> bool:
        """A boolean (false after noting a problem); CSV's "true"/"false" and 0/1 are read too."""
        value = self.require(name)
        known = {"true": True, "false": False, "1": True, "0": False}
        text = str(value).strip().lower()
        if text in known and not isinstance(value, float):
            return known[text]
        if self.column(name) in self._values:
            self.note(name, "not_a_flag", "true or false", describe(value, is_name=True), "write the flag as a boolean")
        return False


def missing_column(name: str, actual: str, values: Mapping[str, Any]) -> Problem:
    """The problem of a record without the column `actual`, which serves as the adapter's column `name`."""
    fix = f"correct the file, or name the column that holds it in the recipe: columns: {{{name}: YOUR_COLUMN}}"
    found = f"only the columns {column_names(values)}"
    return Problem(actual, "missing_column", "this column in every record", found, fix)


@dataclass(frozen=True)
class Adapter:
    """How one public format becomes rows.

    `columns` are required; `optional` may be absent; `somewhere` may be absent from a record, but not from all of them.
    They are the format's own names, which a recipe's column map overrides. `gather` sees all records of the source in
    order, for formats where one row is made of several records.
    """

    columns: tuple[str, ...]
    convert: Callable[[View], Draft | Skip]
    optional: tuple[str, ...] = ()
    somewhere: tuple[str, ...] = ()
    gather: Callable[[Iterable[Record], Mapping[str, str | None]], Iterator[Record | Skip]] | None = None


def raw_text(text: str) -> list[Message]:
    """A prompt or response that is used verbatim, without a chat template."""
    return [{"role": TEXT_ROLE, "content": text}]


def row(prompt: str, chosen: str, rejected: str | None = None, kind: str = "safety") -> Draft:
    """A row of plain strings that are no raw text."""
    return {
        "kind": kind,
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": None if rejected is None else [{"role": "assistant", "content": rejected}],
    }
