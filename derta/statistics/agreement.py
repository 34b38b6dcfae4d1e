"""Do two judges agree? Agreement and Cohen's kappa between a judge and the labels a file came with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from derta.statistics.rates import rate


def agreement(judged: Sequence[bool | None], labels: Sequence[bool | None]) -> dict[str, Any]:
    """How far a judge says what the labels say, on the responses for which both say something.

    Kappa (Cohen 1960) = (p_o - p_e) / (1 - p_e): p_o the observed agreement, p_e the one that two judges would reach
    who say "yes" as often as these two do, but independently. 1: always; 0: no more than that; null where p_e = 1
    (both say the same one thing of everything, so agreement shows nothing).

    Args:
        judged: per response, whether the judge says yes; None: unscored.
        labels: per response, whether the label says yes; None: unlabelled.

    Returns:
        agreement (a rate), kappa, the four counts (`both`, `judge_only`, `label_only`, `neither`), and how many
        responses took no part: `unscored` (labelled, but the judge could not tell) and `unlabelled`.

    Raises:
        ValueError: lists of different lengths.
    """
    pairs = list(zip(judged, labels, strict=True))
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    n = len(known)
    both = sum(a and b for a, b in known)
    neither = sum(not a and not b for a, b in known)
    judge_only = sum(a and not b for a, b in known)
    label_only = n - both - neither - judge_only
    kappa = None
    if n:
        chance = ((both + judge_only) * (both + label_only) + (neither + judge_only) * (neither + label_only)) / n**2
        if chance < 1:
            kappa = ((both + neither) / n - chance) / (1 - chance)
    return {
        "agreement": rate(both + neither, n),
        "kappa": kappa,
        "both": both,
        "judge_only": judge_only,
        "label_only": label_only,
        "neither": neither,
        "unscored": sum(a is None and b is not None for a, b in pairs),
        "unlabelled": sum(b is None for _, b in pairs),
    }
