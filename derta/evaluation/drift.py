"""Does a tuned model still *write* as before? Length and format of the responses of two checkpoints, prompt by prompt.

A safety tuner may leave the answers right and still make them shorter, flatter or cut off. Formats are told by the
marks of Markdown; a response has one or it has not, so each is a share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from derta.evaluation.metrics import by_attack
from derta.evaluation.records import Result
from derta.statistics.bootstrap import PairedDifference, paired_difference

_LIST = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+\S", re.M)
_HEADING = re.compile(r"^#{1,6}\s+\S", re.M)
_CODE = re.compile(r"^\s*```", re.M)
_BOLD = re.compile(r"\*\*\S(?:.*?\S)?\*\*")

FEATURES: dict[str, Callable[[Result], float]] = {
    "tokens": lambda result: float(result.response_tokens - result.prefill_tokens),
    "words": lambda result: float(len(result.response.split())),
    "paragraphs": lambda result: float(len(re.split(r"\n\s*\n", result.response.strip()))),
    "list": lambda result: float(_LIST.search(result.response) is not None),
    "heading": lambda result: float(_HEADING.search(result.response) is not None),
    "code_block": lambda result: float(_CODE.search(result.response) is not None),
    "bold": lambda result: float(_BOLD.search(result.response) is not None),
    "cut_off": lambda result: float(not result.finished),
    "empty": lambda result: float(not result.response.strip()),
}
"""Name -> value of a response; the first three are lengths (tokens written by the model, without prefill)."""


def format_drift(before: Iterable[Result], after: Iterable[Result], *, seed: int = 0) -> dict[str, PairedDifference]:
    """Per feature, the mean before and after, and their difference with its 95% interval (`paired_difference`).

    Only prompts that both checkpoints answered count, refused or not: to compare answers alone, filter both sides.
    """
    first, second = list(before), list(after)
    return {
        name: paired_difference(by_attack(first, value), by_attack(second, value), seed=seed)
        for name, value in FEATURES.items()
    }
