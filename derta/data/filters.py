"""Which rows are dropped, and why.

Each function answers with the reason (a short name for the manifest) or None to keep.
"""

from collections.abc import Mapping
from typing import Any

from derta.data.recipe import Filters
from derta.data.refusal_text import refuses
from derta.data.schema import Row
from derta.models.messages import is_raw_text
from derta.storage.places import describe


def value_reason(values: Mapping[str, Any], filters: Filters) -> str | None:
    """Filter on a source's own columns: `keep_values` and `drop_values`."""
    for column, kept in filters.keep_values.items():
        if values.get(column) not in kept:
            return f"{column}_not_kept"
    for column, dropped in filters.drop_values.items():
        if values.get(column) in dropped:
            return f"{column}_dropped"
    return None


def length_reason(row: Row, filters: Filters) -> str | None:
    """Filter on characters: of all prompt messages together, and of each response there is."""
    responses = [response for response in (row["chosen"], row["rejected"]) if response is not None]
    for what, texts in (("prompt", [row["prompt"]]), ("response", responses)):
        lengths = [sum(len(message["content"]) for message in messages) for messages in texts]
        shortest, longest = getattr(filters, f"min_{what}_chars"), getattr(filters, f"max_{what}_chars")
        if shortest is not None and min(lengths) < shortest:
            return f"{what}_too_short"
        if longest is not None and max(lengths) > longest:
            return f"{what}_too_long"
    return None


def read_responses(row: Row) -> dict[str, tuple[str, bool, str]]:
    """Refusal filter -> the response of this row that it reads, whether that must refuse, and the reason if it does
    not keep to it. A filter that has nothing to read in the row is left out.

    An expanded MLE row of raw text may be a refusal or an answer, which cannot be told apart, so it is not looked at.
    """
    chosen = row["chosen"][-1]["content"] if row["chosen"] is not None else None
    rejected = row["rejected"][-1]["content"] if row["rejected"] is not None else None
    found: dict[str, tuple[str, bool, str]] = {}
    if rejected is not None:
        found["harmful_must_not_refuse"] = (rejected, False, "harmful_response_refuses")
    if chosen is not None and row["kind"] == "safety":
        found["safe_must_refuse"] = (chosen, True, "safe_response_does_not_refuse")
    elif chosen is not None and not is_raw_text(row["prompt"]):
        found["helpful_must_not_refuse"] = (chosen, False, "helpful_response_refuses")
    return found


def refusal_reason(row: Row, filters: Filters) -> str | None:
    """Filter on refusal phrases anywhere in a response (derta/data/refusal_text.py: a heuristic)."""
    for name, (text, must_refuse, reason) in read_responses(row).items():
        if getattr(filters, name) and refuses(text) is not must_refuse:
            return reason
    return None


class ValueWatch:
    """Which values of `keep_values` and `drop_values` a source's records really hold: one that never occurs is a slip
    of the pen more often than not, and one of another type than the column's can never occur."""

    def __init__(self, filters: Filters):
        given = {"keep_values": filters.keep_values, "drop_values": filters.drop_values}
        self._unseen = {(key, name): list(values) for key in given for name, values in given[key].items()}
        self._kinds: dict[str, set[str]] = {column: set() for _, column in self._unseen}

    def see(self, values: Mapping[str, Any]) -> None:
        """Take note of one record."""
        for column, kinds in self._kinds.items():
            kinds.add(_kind(values.get(column)))
        for (_, column), unseen in self._unseen.items():
            if values.get(column) in unseen:
                unseen.remove(values.get(column))

    def verdicts(self) -> tuple[list[str], list[str]]:
        """Values that no record of these can match, and values that none happens to hold; each as a sentence."""
        impossible, absent = [], []
        for (key, column), unseen in self._unseen.items():
            for value in unseen:
                where, kinds = f"filters.{key}.{column}", " and ".join(sorted(self._kinds[column]))
                found = f"{describe(value, is_name=True)} is in no record"
                if _kind(value) in self._kinds[column] or value is None:
                    absent.append(f"{where}: {found}; fix: correct the value, or remove it")
                else:
                    yaml = "YAML reads no, off, yes and on as false and true, and 3 as a number"
                    fix = f"put it in quotes as the file spells it ({yaml})" if kinds == "text" else "correct the value"
                    impossible.append(f"{where}: {found}, the column holds {kinds}; fix: {fix}")
        return impossible, absent


def _kind(value: Any) -> str:
    """What a value is, for comparisons that can come out true."""
    if isinstance(value, bool):
        return "true or false"
    kinds = {"str": "text", "int": "numbers", "float": "numbers", "NoneType": "null"}
    return kinds.get(type(value).__name__, type(value).__name__)
