"""Mean and 95% interval over runs (seeds) x prompts, both random: for rates, and for paired differences of two arms.

              prompt 1   2   ...   P
    seed 1       y11    y12       y1P      y: value of one prompt under one seed; for a paired difference the value of
    seed 2       y21    y22       y2P         one arm minus that of the other, same seed and same prompt
    ...
    seed S       yS1    yS2       ySP

    y_sp = mean + seed_s + prompt_p + rest_sp          (random effects, crossed)

A further seed would give another mean, and so would further prompts; an interval over all S x P values as if they were
independent would be far too narrow. With the mean squares of the two-way table,

    Var(mean) = (MS_seed + MS_prompt - MS_rest) / (S P),

taken to be no smaller than with either of the two alone, and a t interval with Satterthwaite's degrees of freedom, no
fewer than the smaller of S - 1 and P - 1 (Searle, Casella and McCulloch 1992, chapter 4). With five seeds that are
close to four, so t is near 2.8; a percentile bootstrap over five seeds would come out too narrow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from derta.statistics.rates import wilson
from derta.statistics.table import Estimate


@functools.lru_cache
def t_quantile(degrees: float) -> float:
    """The 97.5% quantile of Student's t distribution, to 1e-4; degrees >= 1."""
    if degrees > 1e6:
        return 1.959964
    # Integrated over the angle u with t = sqrt(degrees) tan(u), which makes the density a power of a cosine.
    angles = np.linspace(0.0, math.pi / 2, 20_001)
    density = np.cos(angles) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(math.sqrt(degrees) * math.tan(np.interp(0.95 * area[-1], area, angles)))


@dataclass(frozen=True, slots=True)
class Interval(Estimate):
    """Of values [seeds, prompts]; prompts is null where each seed has one number for all of them."""

    seeds: int = 0
    prompts: int | None = None

    def within(self, lowest: float) -> Interval:
        """Its ends moved to where such a number can be, `lowest` to 1."""
        low, high = (None if end is None else min(max(end, lowest), 1.0) for end in (self.low, self.high))
        return replace(self, low=low, high=high)


def two_way_interval(values: Any) -> Interval:
    """Mean and interval of values [S, P].

    sd: between the seeds' means (null for one seed). The interval of one seed covers prompts only, that of one prompt
    seeds only; low and high are null where there is neither.
    Raises ValueError: values that are not a table, or none."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"expected values [seeds, prompts], got shape {table.shape}")
    seeds, prompts = table.shape
    mean, of_seed, of_prompt = table.mean(), table.mean(1), table.mean(0)
    sd = float(of_seed.std(ddof=1)) if seeds > 1 else None
    squares: list[tuple[float, int]] = []  # mean square, its degrees of freedom
    if seeds > 1:
        squares.append((prompts * float(of_seed.var(ddof=1)), seeds - 1))
    if prompts > 1:
        squares.append((seeds * float(of_prompt.var(ddof=1)), prompts - 1))
    if not squares:
        return Interval(float(mean), sd, None, None, seeds, prompts)
    total, degrees = squares[0][0], float(squares[0][1])
    if len(squares) == 2:
        both = (seeds - 1) * (prompts - 1)
        rest = float(((table - of_seed[:, None] - of_prompt + mean) ** 2).sum()) / both
        whole = squares[0][0] + squares[1][0] - rest
        choices = [(whole, _satterthwaite(whole, [*squares, (rest, both)])), *squares]
        total, degrees = max(choices, key=lambda choice: (choice[0], -choice[1]))
        degrees = max(degrees, float(min(squares[0][1], squares[1][1])))
    half = t_quantile(degrees) * math.sqrt(max(total, 0.0) / table.size)
    return Interval(float(mean), sd, float(mean) - half, float(mean) + half, seeds, prompts)


def _satterthwaite(total: float, squares: Sequence[tuple[float, int]]) -> float:
    spread = sum(square**2 / degrees for square, degrees in squares)
    return total**2 / spread if spread > 0 else math.inf


def rate_interval(values: Any) -> Interval:
    """The same for rates: values in [0, 1], the interval within it; Wilson's for P observations where all values agree,
    because a table of nothing but zeros does not say that the rate is zero."""
    found = two_way_interval(values)
    if found.low is None or found.mean is None or found.prompts is None:
        return found
    # Weighted means of several attacks come out as 1 - 1e-16.
    share = float(round(found.mean)) if abs(found.mean - round(found.mean)) < 1e-9 else found.mean
    if share in (0.0, 1.0) and np.ptp(values) < 1e-9:
        low, high = wilson(share, found.prompts)
        return replace(found, mean=share, low=low, high=high)
    return found.within(0.0)
