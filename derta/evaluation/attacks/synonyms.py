"""Words that may stand for each other, from a file with one group a line: `careful, cautious, attentive`."""

import random
import re
from collections.abc import Callable
from pathlib import Path

from derta.config.shipped import CONF_DIR
from derta.errors import InputError
from derta.storage.read_files import read_text

SHIPPED_SYNONYMS = CONF_DIR / "eval" / "synonyms"
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")

Synonyms = dict[str, tuple[str, ...]]
"""Word in lower case -> the other words of its group."""


def read_synonyms(name: str) -> Synonyms:
    """The table of a shipped file (its name without .txt) or of a file of one's own.
    Raises InputError: no such file, not UTF-8, no group in it, a group of one word, a word in two groups or with white
    space in it; all lines are listed."""
    shipped = SHIPPED_SYNONYMS / f"{name}.txt"
    path = shipped if shipped.is_file() else Path(name).expanduser()
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in SHIPPED_SYNONYMS.glob("*.txt")))
        raise InputError(f"synonyms={name}: no such file, and not one of the shipped tables ({there})")
    lines = read_text(path).splitlines()
    table: Synonyms = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        group = [word.strip().lower() for word in line.split(",")]
        if len(set(group)) < 2 or not all(_WORD.fullmatch(word) for word in group):
            problems.append(f"line {number}: expected at least two different words, separated by commas")
        elif known := sorted(set(group) & set(table)):
            problems.append(f"line {number}: {', '.join(known)} stands in an earlier group, too")
        else:
            table |= {word: tuple(other for other in group if other != word) for word in group}
    if not table and not problems:
        problems = ["no group of words in it"]
    if problems:
        raise InputError.listing(f"{path} cannot be used as a table of synonyms:", problems)
    return table


def words_of(text: str) -> set[str]:
    """The words of a text in lower case."""
    return {word.lower() for word in _WORD.findall(text)}


def replace_words(text: str, choose: Callable[[str], str]) -> str:
    """The text with every word (given in lower case) exchanged for what `choose` says; capital initials stay."""

    def exchanged(match: re.Match[str]) -> str:
        word = match[0]
        new = choose(word.lower())
        if new == word.lower():
            return word
        return new[:1].upper() + new[1:] if word[0].isupper() else new

    return _WORD.sub(exchanged, text)


def swap_at_random(text: str, table: Synonyms, rng: random.Random, share: float) -> str:
    """Each word that has synonyms gives way to one of them with probability `share`."""

    def choose(word: str) -> str:
        others = table.get(word)
        return rng.choice(others) if others and rng.random() < share else word

    return replace_words(text, choose)
