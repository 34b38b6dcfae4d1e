"""How well a score tells two kinds of rows apart: the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from derta.statistics.rates import Rate, wilson


@dataclass(frozen=True, slots=True)
class Auroc:
    """An area with its 95% interval, and the scores on either side; the first three are null if a side has none."""

    auroc: float | None
    low: float | None = None
    high: float | None = None
    n_harmful: int = 0
    n_benign: int = 0

    def as_rate(self) -> Rate:
        return Rate(None, self.n_harmful + self.n_benign, self.auroc, self.low, self.high)


def clustered_auroc(positives: Iterable[Sequence[float]], negatives: Iterable[Sequence[float]]) -> Auroc:
    """Probability that a positive scores above a negative, ties counting half, of scores that come in rows; with a 95%
    interval that counts rows, not scores, as independent.

    The variance is that of Obuchowski (1997) for clustered data: of each row's mean place among the scores of the other
    side. The interval is Wilson's with an effective n = A (1 - A) / Var(A), never below the number of rows of the
    smaller side, which it also is where all scores are told apart.
    positives, negatives: scores of each row (of a harmful or a benign response); rows may be empty."""
    sides = [[row for row in rows if len(row)] for rows in (positives, negatives)]
    counts = [sum(map(len, rows)) for rows in sides]
    if not all(sides):
        return Auroc(None, None, None, *counts)
    scores = [np.concatenate([np.asarray(row, dtype=np.float64) for row in rows]) for rows in sides]
    area = float(_placements(*scores).mean())
    variance = 0.0
    for rows, places in zip(sides, (_placements(*scores), 1 - _placements(*reversed(scores))), strict=True):
        starts = np.cumsum([0, *map(len, rows[:-1])])
        shifts = np.add.reduceat(places - area, starts)  # [rows]
        variance += float((shifts**2).sum()) * len(rows) / max(len(rows) - 1, 1) / len(places) ** 2
    fewest = min(map(len, sides))
    effective = area * (1 - area) / variance if variance > 0 else fewest
    low, high = wilson(area, max(effective, fewest))
    return Auroc(area, low, high, *counts)


def _placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each score, the share of the others below it, ties counting half."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(ordered))
