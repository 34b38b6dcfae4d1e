"""Do two judges agree? Agreement and Cohen's kappa between a judge and the labels a file came with."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from derta.statistics.rates import Rate, rate


@dataclass(frozen=True, slots=True)
class Agreement:
    """kappa and the four counts: see `agreement`. Of the responses that took no part, `unscored` are labelled, but the
    judge could not tell; `unlabelled` have no label."""

    agreement: Rate
    kappa: float | None
    both: int
    judge_only: int
    label_only: int
    neither: int
    unscored: int
    unlabelled: int


def agreement(judged: Sequence[bool | None], labels: Sequence[bool | None]) -> Agreement:
    """How far a judge says what the labels say, on the responses for which both say something.

    Kappa (Cohen 1960) = (p_o - p_e) / (1 - p_e): p_o the observed agreement, p_e the one that two judges would reach
    who say "yes" as often as these two do, but independently. 1: always; 0: no more than that; null where p_e = 1
    (both say the same one thing of everything, so agreement shows nothing).
    judged: per response, whether the judge says yes; None: unscored.
    labels: per response, whether the label says yes; None: unlabelled.
    Raises ValueError: lists of different lengths."""
    counts = Counter(zip(judged, labels, strict=True))
    both, judge_only, label_only, neither = (counts[a, b] for a in (True, False) for b in (True, False))
    n = both + judge_only + label_only + neither
    kappa = None
    if n:
        chance = ((both + judge_only) * (both + label_only) + (neither + judge_only) * (neither + label_only)) / n**2
        if chance < 1:
            kappa = ((both + neither) / n - chance) / (1 - chance)
    unscored, unlabelled = counts[None, True] + counts[None, False], labels.count(None)
    return Agreement(rate(both + neither, n), kappa, both, judge_only, label_only, neither, unscored, unlabelled)
