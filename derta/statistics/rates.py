"""Rates with 95% Wilson intervals: what every share in a summary is made of."""

import math
from dataclasses import dataclass

Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of n observations with its 95% interval, low <= rate <= high; all three are null for n = 0.

    count: how many of the n, where it is a count; null for other numbers from 0 to 1 (an AUROC, a mean score).
    """

    count: int | None = None
    n: int = 0
    rate: float | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        # Files of earlier versions hold intervals that miss their own rate by rounding: [1.7e-17, ...] of 0 of 12.
        if self.rate is not None and self.low is not None and self.high is not None:
            object.__setattr__(self, "low", min(self.low, self.rate))
            object.__setattr__(self, "high", max(self.high, self.rate))

    def __str__(self) -> str:
        """In per cent."""
        if self.rate is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{100 * self.rate:.1f}%"
        return f"{100 * self.rate:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def rate(count: int, n: int) -> Rate:
    """A rate with its Wilson interval. Raises ValueError: count outside 0..n."""
    if not 0 <= count <= n:
        raise ValueError(f"no interval for {count} of {n}")
    return Rate(count, n, count / n, *wilson(count / n, n)) if n else Rate(count, 0)


def wilson(share: float, n: float) -> tuple[float, float]:
    """95% Wilson score interval of a share of `n` observations; n may be an effective number. Unlike the normal one it
    keeps its width at 0 and at 1. It is within 0 to 1 and holds the share: at 0 it begins with exactly 0 and at 1 it
    ends with exactly 1, where rounding alone would miss them."""
    z = Z_95
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))
