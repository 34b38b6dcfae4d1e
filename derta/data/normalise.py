"""What the builder changes in a text, exactly; and when two prompts count as the same.

Chat messages: Unicode NFC; "\\r\\n" and "\\r" become "\\n"; whitespace at both ends is removed (a leading space in a
response would change its first token, and with it the refusal token). Nothing inside the text is touched.

Raw text messages (role "text") are left as they are: their spaces and special tokens are part of the data.

For comparison a text is cut into units, regardless of case, spacing and punctuation:

    How do I brew it?           how  do  i  brew  it
    C++, C#                     c  ++  c  #                 symbols count: + # = != < > $ % & * / @ \\ ^ | ~ and emoji
    7 - 2, -5, 3.5, x²          7  −  2  −  5  3.5  x  ^  2     a minus before a digit, numbers with their points
    कमल, कमला                    two words: vowel signs are part of a word
    銀のりんご                    銀  の  り  ん  ご            characters of scripts without spaces
"""

import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import regex  # type: ignore[import-untyped]

from derta.models.messages import TEXT_ROLE

_UNSEEN = regex.compile(r"\p{Default_Ignorable_Code_Point}+")  # joiners, variation selectors, soft hyphens
_SUPERSCRIPT = regex.compile(r"(?=[⁰¹²³⁴-⁹⁺⁻])(?<![⁰¹²³⁴-⁹⁺⁻])")  # before NFKC, which makes 25 of 2⁵
_MINUS = regex.compile(r"(?<![\p{L}\p{M}])[-−–](?=\s?\p{N})")
_HALF_WORD = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}ー"
_QUARTER_WORD = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
WITHOUT_SPACES = _HALF_WORD + _QUARTER_WORD
"""The inside of a character class: scripts that write no spaces between words."""
_LETTER = rf"[[\p{{L}}\p{{N}}\p{{Mn}}\p{{Mc}}]--[{WITHOUT_SPACES}]]"
_UNIT = regex.compile(
    rf"{_LETTER}+(?:(?<=\p{{N}})[.,:](?=\p{{N}}){_LETTER}+)*"
    rf"|[{WITHOUT_SPACES}][\p{{Mn}}\p{{Mc}}]*|!?([\p{{S}}#%\&*/@\\])\1*",
    regex.V1,
)
WORD = 4  # the weight of one word


def normalise_text(text: str) -> str:
    """One chat message's content, normalised as the module docstring says."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def normalise_messages(messages: Any) -> Any:
    """A list of messages with normalised content.

    What is not a well-formed message is left for validation to report.
    """
    if not isinstance(messages, list):
        return messages
    return [
        {**one, "content": normalise_text(one["content"])}
        if isinstance(one, Mapping) and isinstance(one.get("content"), str) and one.get("role") != TEXT_ROLE
        else one
        for one in messages
    ]


def units(text: str) -> list[str]:
    """A text for comparison: NFKC and case-folded, in words, numbers, runs of one symbol, and single characters of
    scripts without spaces."""
    text = unicodedata.normalize("NFKC", _SUPERSCRIPT.sub("^", _UNSEEN.sub("", text))).casefold()
    return [match[0] for match in _UNIT.finditer(_MINUS.sub("\u2212", text))]


@lru_cache(maxsize=1 << 16)
def weight(unit: str) -> int:
    """How much a unit says, in quarters of a word: a Chinese or Japanese character counts for half a word, a Thai, Lao,
    Khmer or Burmese one for a quarter, a symbol for nothing."""
    for script, part in ((_HALF_WORD, 2), (_QUARTER_WORD, 4)):
        if regex.match(f"[{script}]", unit):
            return WORD // part
    return WORD if unit[0].isalnum() else 0


def prompt_key(messages: Iterable[Mapping[str, str]]) -> str:
    """What makes two prompts the same: roles and units of every message.

    A prompt without a unit is compared by its exact text.
    """
    return "\n".join(f"{m['role']}: {' '.join(units(m['content'])) or m['content']}" for m in messages)
