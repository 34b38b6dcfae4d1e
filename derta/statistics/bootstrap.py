"""Bootstrap intervals over prompts, seeded: for means, and for differences between two checkpoints.

    prompt      1    2    3   ...   N
    attack a   a11  a12   -        a1N     before      what is resampled is the prompt: all its responses, of both
    attack b   a21  a22  a23       a2N                 checkpoints, go or stay together
    attack a   b11  b12   -        b1N     after

Responses of one prompt hang together, and so do the two checkpoints' responses to it: resampling them together keeps
both, so the interval of a difference is narrower than that of two independent rates wherever the checkpoints agree.
Percentile intervals (Efron and Tibshirani 1993, chapter 13), 95%. Shapes: A attacks, N prompts, R resamples.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from derta.statistics.rates import Rate

RESAMPLES = 10_000
_CHUNK = 1 << 22  # numbers in memory at once


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean of n values with its 95% interval; all three are null for no values."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0

    def as_rate(self) -> Rate:
        return Rate(None, self.n, self.mean, self.low, self.high)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """after - before with its 95% interval, over n paired responses of so many prompts; `unpaired` responses have no
    counterpart and are left out. All numbers are null where nothing is paired."""

    before: float | None
    after: float | None
    difference: float | None
    low: float | None
    high: float | None
    n: int
    prompts: int
    unpaired: int


def mean_interval(values: Sequence[float]) -> Mean:
    """The mean of values in [0, 1] or of any others."""
    if not values:
        return Mean()
    sample = np.asarray(values, dtype=np.float64)
    means = np.concatenate([weights @ sample for weights in _resampled(len(sample), seed=0)]) / len(sample)
    low, high = np.quantile(means, (0.025, 0.975))
    return Mean(float(sample.mean()), float(low), float(high), len(sample))


def paired_difference(
    before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]], *, seed: int = 0
) -> PairedDifference:
    """Mean over attacks of (after - before) on the responses that both checkpoints have.
    before, after: attack -> row id -> value of a scored response (0 or 1 for an outcome, or any number)."""
    pairs = {
        attack: {row_id: (cell[row_id], after[attack][row_id]) for row_id in cell if row_id in after[attack]}
        for attack, cell in before.items()
        if attack in after
    }
    pairs = {attack: cell for attack, cell in pairs.items() if cell}
    total = sum(len(cell) for side in (before, after) for cell in side.values())
    n = sum(len(cell) for cell in pairs.values())
    if not pairs:
        return PairedDifference(None, None, None, None, None, 0, 0, total)
    ids = sorted({row_id for cell in pairs.values() for row_id in cell})
    missing = (np.nan, np.nan)
    values = np.array([[cell.get(i, missing) for i in ids] for cell in pairs.values()], dtype=float)  # [A, N, 2]
    there = ~np.isnan(values[..., 0])
    values = np.nan_to_num(values)
    means = values.sum(1) / there.sum(1)[:, None]  # [A, 2]
    first, second = (float(side) for side in means.mean(0))
    moved = (values[..., 1] - values[..., 0]).T  # [N, A]
    differences = []
    for weights in _resampled(len(ids), seed):
        drawn = weights @ there.T  # [R, A]
        # A resample may hold no response to some attack: that attack then takes no part in this resample's mean.
        with np.errstate(invalid="ignore"):
            differences.append(np.nanmean(np.where(drawn > 0, (weights @ moved) / drawn, np.nan), axis=1))
    low, high = np.quantile(np.concatenate(differences), (0.025, 0.975))
    return PairedDifference(first, second, second - first, float(low), float(high), n, len(ids), total - 2 * n)


def _resampled(n: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n prompts is drawn, [R, n], in pieces that fit into memory."""
    generator = np.random.default_rng(seed)
    size = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, size):
        piece = min(size, RESAMPLES - start)
        drawn = generator.integers(n, size=(piece, n)) + n * np.arange(piece)[:, None]
        yield np.bincount(drawn.ravel(), minlength=piece * n).reshape(piece, n).astype(np.float64)
