"""Which training prompts overlap evaluation prompts: word n-grams, the same for the recipe step and for the guard.

Words are compared as in derta/data/normalise.py (case, spacing and punctuation do not count). A training prompt
overlaps an evaluation prompt if one of its messages

- shares `ngram` consecutive words with it, or
- holds the whole of it, where it is shorter than `ngram` but has at least CONTAINED_WORDS words (half of XSTest's
  prompts are so short), or
- equals it, where it is shorter still: "Tell me more" inside a longer message is no sign of anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from derta.config.data import NGRAM
from derta.data.normalise import words

CONTAINED_WORDS = 5

Words = tuple[str, ...]


class EvaluationNgrams:
    """The word n-grams of the prompts of several evaluation sets: name -> prompts."""

    def __init__(self, sets: Mapping[str, Iterable[str]], ngram: int = NGRAM):
        self._names = list(sets)
        self._grams: dict[Words, int] = {}  # n-gram -> a bit for each set it occurs in
        self._equal: dict[Words, int] = {}
        self._lengths: set[int] = set()
        for place, prompts in enumerate(sets.values()):
            for prompt in prompts:
                tokens = tuple(words(prompt))
                length = ngram if len(tokens) >= ngram else len(tokens)
                if length >= min(CONTAINED_WORDS, ngram):
                    self._lengths.add(length)
                    for gram in _grams(tokens, length):
                        self._grams[gram] = self._grams.get(gram, 0) | 1 << place
                elif tokens:
                    self._equal[tokens] = self._equal.get(tokens, 0) | 1 << place

    def overlaps(self, row: Mapping[str, Any]) -> list[str]:
        """Names of the evaluation sets that a message of the row's prompt overlaps; empty: none."""
        found = 0
        for message in row["prompt"]:
            tokens = tuple(words(message["content"]))
            found |= self._equal.get(tokens, 0)
            for length in self._lengths:
                for gram in _grams(tokens, length):
                    found |= self._grams.get(gram, 0)
        return [name for place, name in enumerate(self._names) if found >> place & 1]


def _grams(tokens: Words, n: int) -> Iterable[Words]:
    return (tokens[start : start + n] for start in range(len(tokens) - n + 1))


@dataclass
class Overlaps:
    """Which rows overlap which evaluation sets. Rows are named by id, their text is nowhere in it.

    rows: how many were looked at. by_set: name of the evaluation set -> ids of overlapping rows, in order.
    """

    ngram: int
    rows: int = 0
    by_set: dict[str, list[str]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def add(self, row_id: str, sets: Sequence[str]) -> None:
        """Count one row that overlaps `sets` (none: it overlaps nothing)."""
        self.rows += 1
        if sets:
            self.ids.append(row_id)
        for name in sets:
            self.by_set[name].append(row_id)


def find_overlaps(rows: Iterable[Mapping[str, Any]], sets: Mapping[str, Sequence[str]], ngram: int = NGRAM) -> Overlaps:
    """The rows (schema of derta/data/schema.py) that overlap the prompts of these evaluation sets."""
    grams = EvaluationNgrams(sets, ngram)
    found = Overlaps(ngram, by_set={name: [] for name in sets})
    for row in rows:
        found.add(row["id"], grams.overlaps(row))
    return found
