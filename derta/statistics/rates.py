"""Rates with 95% Wilson intervals: what every share in a summary is made of.

A *rate* is `{"count", "n", "rate", "low", "high"}`: rate = count / n; rate, low and high are null for n = 0.
"""

from __future__ import annotations

import math
from typing import Any

Z_95 = 1.959963984540054


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """95% Wilson score interval of a binomial rate; unlike the normal one it keeps its width at 0 of n and n of n.

    Raises:
        ValueError: n < 1 or count outside 0..n.
    """
    if n < 1 or not 0 <= count <= n:
        raise ValueError(f"no interval for {count} of {n}")
    return wilson(count / n, n)


def wilson(share: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """The same from a share of `n` observations; n may be an effective number."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def rate(count: int, n: int) -> dict[str, Any]:
    """A rate with its Wilson interval."""
    if n == 0:
        return {"count": count, "n": 0, "rate": None, "low": None, "high": None}
    low, high = wilson_interval(count, n)
    return {"count": count, "n": n, "rate": count / n, "low": low, "high": high}
