"""Loops: what a model writes that cannot stop. Words, numbers and runs of one mark stand for tokens, so that
a stored response is judged as it was when its tokens were at hand.

    one piece, or a phrase of up to 12 pieces, at least four times in a row:

    the the the the      SorrySorrySorrySorry      Sorry, no. Sorry, no. Sorry, no. Sorry, no.
"""

from dataclasses import dataclass

import regex  # type: ignore[import-untyped]

from derta.data.normalise import WITHOUT_SPACES

LONGEST = 12
TIMES = 4
EARLY = 20

# A capital inside a word begins a new piece ("SorrySorry"); scripts without spaces go character by character.
_PIECE = regex.compile(
    rf"[{WITHOUT_SPACES}]|(?:\p{{Lu}}+(?!\p{{Ll}})|\p{{Lu}}?[\p{{L}}\p{{M}}--\p{{Lu}}]+)(?:['’]\p{{L}}+)*|\p{{N}}+"
    r"|([^\p{L}\p{N}\s])\1{0,7}",
    regex.V1,
)
_WITHIN = regex.compile(r"(.{3,}?)\1{3,}")  # "sorrysorrysorrysorry"
_RULES = frozenset("-=_*#~|+.`")  # lines, tables and leaders are no loops


@dataclass(frozen=True, slots=True)
class Loop:
    """start: character at which the first round begins. pieces: how many stand before it. phrase: what is repeated."""

    start: int
    pieces: int
    phrase: str


def first_loop(text: str, start: int = 0) -> Loop | None:
    """The first loop of the text at or behind the character `start`, or None."""
    found = [(match[0].casefold(), match.start(), match.end()) for match in _PIECE.finditer(text, start)]
    pieces = [piece for piece, _, _ in found]
    for i in range(len(pieces)):
        if len(pieces[i]) >= 3 * TIMES and (within := _WITHIN.search(text, found[i][1], found[i][2])):
            return Loop(found[i][1], i, within[1])
        for length in range(1, min(LONGEST, (len(pieces) - i) // TIMES) + 1):
            end = i + length
            if (
                pieces[i] == pieces[end]
                and pieces[i : i + (TIMES - 1) * length] == pieces[end : end + (TIMES - 1) * length]
            ):
                if not _RULES.issuperset("".join(pieces[i:end])):
                    return Loop(found[i][1], i, text[found[i][1] : found[end - 1][2]])
    return None
