"""Which training prompts overlap evaluation prompts: the same for the recipe step, the guard and the command.

Texts are compared unit by unit as in derta/data/normalise.py (case, spacing and punctuation do not count). Lengths are
in words; a Chinese or Japanese character counts for half a word, a Thai, Lao, Khmer or Burmese one for a quarter, and a
symbol has to be the same but counts for none. A training prompt overlaps an evaluation prompt if one of its messages

- shares `ngram` words in a row with it, or
- holds the whole of it, where it is shorter than `ngram` but has at least CONTAINED_WORDS words (half of XSTest's
  prompts are so short), or
- equals it, where it is shorter still: "Tell me more" inside a longer message is no sign of anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from derta.config.data import NGRAM
from derta.data.normalise import WORD, units, weight
from derta.errors import first_of

CONTAINED_WORDS = 5

Units = tuple[str, ...]


class EvaluationNgrams:
    """The n-grams of the prompts of several evaluation sets: name -> prompts."""

    def __init__(self, sets: Mapping[str, Iterable[str]], ngram: int = NGRAM):
        self._names = list(sets)
        self._ngram = ngram
        self._grams: dict[Units, int] = {}  # n-gram -> a bit for each set it occurs in
        self._contained: dict[Units, int] = {}
        self._equal: dict[Units, int] = {}
        for place, prompts in enumerate(sets.values()):
            for prompt in prompts:
                text = tuple(units(prompt))
                words = sum(map(weight, text)) / WORD
                if words >= ngram:
                    table, grams = self._grams, _grams(text, ngram)
                else:
                    table = self._contained if words >= CONTAINED_WORDS else self._equal
                    grams = iter([text] if text else [])
                for gram in grams:
                    table[gram] = table.get(gram, 0) | 1 << place
        self._lengths = sorted(set(map(len, self._contained)))

    def find(self, rows: Iterable[Mapping[str, Any]]) -> Overlaps:
        """The rows (schema of derta/data/schema.py) that overlap prompts of these evaluation sets."""
        found = Overlaps(self._ngram, by_set={name: [] for name in self._names})
        for row in rows:
            found.rows += 1
            if names := self.overlaps(row):
                found.ids.append(row["id"])
            for name in names:
                found.by_set[name].append(row["id"])
        return found

    def overlaps(self, row: Mapping[str, Any]) -> list[str]:
        """Names of the evaluation sets that a message of the row's prompt overlaps; empty: none."""
        found = 0
        for message in row["prompt"]:
            text = tuple(units(message["content"]))
            found |= self._equal.get(text, 0)
            for gram in _grams(text, self._ngram) if self._grams else ():
                found |= self._grams.get(gram, 0)
            for length in self._lengths:
                for start in range(len(text) - length + 1):
                    found |= self._contained.get(text[start : start + length], 0)
        return [name for place, name in enumerate(self._names) if found >> place & 1]


def _grams(text: Units, words: int) -> Iterator[Units]:
    """From every unit on, the fewest units that make so many words; what two texts share of that length they share as
    one of these."""
    weights = [weight(unit) for unit in text]
    end = total = 0
    for start in range(len(text)):
        while total < words * WORD and end < len(text):
            total += weights[end]
            end += 1
        if total < words * WORD:
            return
        yield text[start:end]
        total -= weights[start]


@dataclass
class Overlaps:
    """Which rows overlap which evaluation sets. Rows are named by id, their text is nowhere in it.

    rows: how many were looked at. by_set: name of the evaluation set -> ids of overlapping rows, in order.
    """

    ngram: int
    rows: int = 0
    by_set: dict[str, list[str]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        by_set = ", ".join(f"{name}: {len(ids)}" for name, ids in self.by_set.items() if ids)
        return (
            f"{len(self.ids)} of {self.rows} rows share {self.ngram} words in a row with evaluation prompts, or hold a "
            f"shorter one ({by_set}): {first_of(self.ids)}"
        )

    def report(self) -> dict[str, Any]:
        """The same for JSON: counts and ids."""
        return {
            "ngram": self.ngram,
            "rows": self.rows,
            "overlapping": len(self.ids),
            "overlapping_by_set": {name: len(ids) for name, ids in self.by_set.items()},
            "ids": self.ids,
        }
