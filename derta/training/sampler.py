"""The order of the rows: global batches whose make-up does not depend on how they are split.

transformers' length grouping depends on the micro-batch size, and its last batch on the number of ranks; then the same
seed and global batch give another loss on another machine. Here an epoch is a list of global batches, drawn from
(seed, epoch) alone; ranks, accumulation and micro-batches only cut them up.

Rows are sorted by length *inside* a global batch: micro-batches waste little padding, while every global batch stays a
random sample. (Sorting across batches would separate short MLE rows from long RTO rows.)
"""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class GlobalBatchSampler(Sampler[int]):
    """Row indices of one epoch, in whole global batches; the last one is completed with the epoch's first rows.

    Args:
        lengths: tokens per row (an estimate is enough; used for order only).
        global_batch_size: rows per optimizer step.
        shuffle: a new order every epoch, longest row of a global batch first; else the order of the data.
    """

    def __init__(self, lengths: Sequence[int], global_batch_size: int, *, seed: int, shuffle: bool):
        self.lengths = np.asarray(lengths)
        self.batch, self.seed, self.shuffle = global_batch_size, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch) * self.batch

    def __iter__(self) -> Iterator[int]:
        order = np.arange(len(self.lengths))
        if not self.shuffle:
            return iter(np.resize(order, len(self)).tolist())
        rng = np.random.Generator(np.random.Philox(key=[self.seed, self.epoch]))
        batches = np.resize(rng.permutation(order), len(self)).reshape(-1, self.batch)
        longest_first = np.argsort(-self.lengths[batches], axis=1, kind="stable")
        return iter(np.take_along_axis(batches, longest_first, axis=1).ravel().tolist())
