"""Random draws that depend on nothing but their names: (seed, epoch, example id).

No generator is kept, so the draws are the same for any number of ranks, loader workers and micro-batches and after a
resume, and differ from epoch to epoch.
"""

import hashlib

import numpy as np

_RANGE = 1 << 64


def _hash64(*names: object) -> int:
    """Uniform over 0 .. 2^64 - 1."""
    text = "\x1f".join(map(str, names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def prefix_length(
    longest: int, *, seed: int, epoch: int, example_id: str, copy: int = 0, zero_fraction: float = 0.0
) -> int:
    """k, the number of tokens of harmful prefix: 0 with probability `zero_fraction`, else uniform over 0..longest.

    Paper section 3.1: k is uniform over 0..|r_hat|. The reference code gives every third row no prefix.
    """
    if _hash64("zero", seed, epoch, example_id, copy) < zero_fraction * _RANGE:
        return 0
    return _hash64("prefix", seed, epoch, example_id, copy) * (longest + 1) // _RANGE


def kept_positions(length: int, *, dropout: float, seed: int, epoch: int, example_id: str, copy: int = 0) -> np.ndarray:
    """Which of `length` RTO positions keep their loss: bool [length], each kept with probability 1 - dropout.

    At least one is kept (`length` >= 1), so that no row is paid for and then teaches nothing.
    """
    if dropout == 0:
        return np.ones(length, dtype=bool)
    key = _hash64("dropout", seed, epoch, example_id, copy)
    kept = np.random.Generator(np.random.Philox(key=key)).random(length) >= dropout
    if length and not kept.any():
        kept[_hash64("keep", seed, epoch, example_id, copy) * length // _RANGE] = True
    return kept


def is_ablated(probability: float, *, seed: int, epoch: int, example_id: str, copy: int = 0) -> bool:
    """Whether a row is trained with the refusal direction ablated."""
    return _hash64("ablation", seed, epoch, example_id, copy) < probability * _RANGE
