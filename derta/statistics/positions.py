"""Positions in a response, in the stretches that every table shows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from derta.statistics.rates import Rate, rate

POSITION_BUCKETS: tuple[tuple[str, int, float], ...] = (
    ("0", 0, 0),
    ("1-5", 1, 5),
    ("6-30", 6, 30),
    (">30", 31, math.inf),
)
"""Name, first and last position (in response tokens, prefill included) of each stretch."""


@dataclass(frozen=True, slots=True)
class Curve:
    """By position: mean and quartiles over the `count` rows that are long enough for it."""

    mean: list[float]
    q25: list[float]
    q75: list[float]
    count: list[int]


def shares_of_positions(positions: Sequence[int]) -> dict[str, Rate]:
    """Share of these positions in each of `POSITION_BUCKETS`."""
    return {
        name: rate(sum(first <= position <= last for position in positions), len(positions))
        for name, first, last in POSITION_BUCKETS
    }
