"""Bootstrap intervals over prompts, seeded: for means, and for differences between two checkpoints.

    prompt      1    2    3   ...   N
    attack a   a11  a12   -        a1N     before      what is resampled is the prompt: all its responses, of both
    attack b   a21  a22  a23       a2N                 checkpoints, go or stay together
    attack a   b11  b12   -        b1N     after

Responses of one prompt hang together, and so do the two checkpoints' responses to it: resampling them together keeps
both, so the interval of a difference is narrower than that of two independent rates wherever the checkpoints agree.
Percentile intervals (Efron and Tibshirani 1993, chapter 13), 95%. Shapes: A attacks, N prompts, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 10_000
_CHUNK = 1 << 22  # numbers in memory at once


def mean_interval(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """`{"mean", "low", "high", "n"}`; the first three are null for no values."""
    if not values:
        return {"mean": None, "low": None, "high": None, "n": 0}
    sample = np.asarray(values, dtype=np.float64)
    means = np.concatenate([weights @ sample for weights in _resampled(len(sample), seed, resamples)]) / len(sample)
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": float(sample.mean()), "low": float(low), "high": float(high), "n": len(sample)}


def paired_difference(
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Mean over attacks of (after - before) on the responses that both checkpoints have.

    Args:
        before, after: attack -> row id -> value of a scored response (0 or 1 for an outcome, or any number).

    Returns:
        `{"before", "after", "difference", "low", "high", "n", "prompts", "unpaired"}`: n paired responses of so many
        prompts; `unpaired` responses have no counterpart and are left out. All numbers null where nothing is paired.
    """
    pairs = {
        attack: {row_id: (cell[row_id], after[attack][row_id]) for row_id in cell if row_id in after[attack]}
        for attack, cell in before.items()
        if attack in after
    }
    pairs = {attack: cell for attack, cell in pairs.items() if cell}
    total = sum(len(cell) for side in (before, after) for cell in side.values())
    n = sum(len(cell) for cell in pairs.values())
    counts = {"n": n, "prompts": 0, "unpaired": total - 2 * n}
    if not pairs:
        return dict.fromkeys(("before", "after", "difference", "low", "high"), None) | counts
    ids = sorted({row_id for cell in pairs.values() for row_id in cell})
    counts["prompts"] = len(ids)
    missing = (np.nan, np.nan)
    values = np.array([[cell.get(row_id, missing) for row_id in ids] for cell in pairs.values()])  # [A, N, 2]
    there = ~np.isnan(values[..., 0])
    values = np.nan_to_num(values)
    means = values.sum(1) / there.sum(1)[:, None]  # [A, 2]
    first, second = (float(side) for side in means.mean(0))
    moved = (values[..., 1] - values[..., 0]).T  # [N, A]
    differences = []
    for weights in _resampled(len(ids), seed, resamples):
        drawn = weights @ there.T  # [R, A]
        # A resample may hold no response to some attack: that attack then takes no part in this resample's mean.
        with np.errstate(invalid="ignore"):
            differences.append(np.nanmean(np.where(drawn > 0, (weights @ moved) / drawn, np.nan), axis=1))
    low, high = np.quantile(np.concatenate(differences), (0.025, 0.975))
    found = {"before": first, "after": second, "difference": second - first, "low": float(low), "high": float(high)}
    return found | counts


def _resampled(n: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each of n prompts is drawn, [R, n], in pieces that fit into memory."""
    generator = np.random.default_rng(seed)
    size = max(1, _CHUNK // n)
    pieces = [min(size, resamples - start) for start in range(0, resamples, size)]
    for piece in pieces:
        drawn = generator.integers(n, size=(piece, n)) + n * np.arange(piece)[:, None]
        yield np.bincount(drawn.ravel(), minlength=piece * n).reshape(piece, n).astype(np.float64)
