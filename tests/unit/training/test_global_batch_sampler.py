"""The order of an epoch: whole global batches whose make-up depends on (seed, epoch) alone."""

import numpy as np
import pytest
from torch.utils.data import BatchSampler

from derta.training.sampler import GlobalBatchSampler

LENGTHS = [5, 9, 2, 7, 7, 1, 8, 3, 6, 4, 11]  # 11 rows


def epoch_of(sampler: GlobalBatchSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_whole_global_batches_with_wrap_around():
    """11 rows in batches of 4: 12 places, every row once, and one of the epoch's first rows again."""
    sampler = GlobalBatchSampler(LENGTHS, 4, seed=1, shuffle=True)
    order = epoch_of(sampler, 0)
    assert len(order) == len(sampler) == 12
    counts = np.bincount(order, minlength=11)
    assert counts.min() == 1 and counts.sum() == 12
    repeated = int(counts.argmax())
    assert repeated in order[:4] and repeated in order[8:]


def test_order_of_the_data_and_batches_that_are_whole_or_larger_than_the_data():
    sampler = GlobalBatchSampler(LENGTHS, 4, seed=1, shuffle=False)
    assert epoch_of(sampler, 0) == epoch_of(sampler, 1) == [*range(11), 0]
    assert epoch_of(GlobalBatchSampler([3, 2, 1], 8, seed=1, shuffle=False), 0) == [0, 1, 2, 0, 1, 2, 0, 1]
    order = epoch_of(GlobalBatchSampler(LENGTHS[:8], 4, seed=1, shuffle=True), 3)
    assert sorted(order) == list(range(8)), "no row is added"


def test_longest_first_inside_a_batch():
    sampler = GlobalBatchSampler(LENGTHS, 4, seed=1, shuffle=True)
    for epoch in range(5):
        for batch in np.reshape(epoch_of(sampler, epoch), (3, 4)):
            lengths = [LENGTHS[i] for i in batch]
            assert lengths == sorted(lengths, reverse=True)


def test_batches_are_not_sorted_by_length():
    """Sorting across batches would part short MLE rows from long RTO rows: batch means of length must mix."""
    lengths = [1] * 200 + [100] * 200
    batches = np.reshape(epoch_of(GlobalBatchSampler(lengths, 40, seed=0, shuffle=True), 0), (10, 40))
    long_rows = [(batch >= 200).sum() for batch in batches]
    assert all(8 <= count <= 32 for count in long_rows)  # expected 20, hypergeometric deviation 3


def test_epochs_and_seeds_differ_and_repeat():
    sampler = GlobalBatchSampler(LENGTHS, 4, seed=1, shuffle=True)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 1)
    assert first != second and epoch_of(sampler, 0) == first
    assert epoch_of(GlobalBatchSampler(LENGTHS, 4, seed=2, shuffle=True), 0) != first


@pytest.mark.parametrize(("ranks", "micro", "accumulation"), [(1, 8, 1), (1, 1, 8), (2, 4, 1), (2, 1, 4), (4, 2, 1)])
def test_a_global_batch_holds_the_same_rows_for_any_split(ranks, micro, accumulation):
    """Ranks take micro-batches in turn, as accelerate deals them: rank r has micro-batches r, r + ranks, ..."""
    lengths = list(range(40))
    whole = np.reshape(epoch_of(GlobalBatchSampler(lengths, 8, seed=1, shuffle=True), 2), (5, 8))
    sampler = GlobalBatchSampler(lengths, ranks * micro * accumulation, seed=1, shuffle=True)
    sampler.set_epoch(2)
    micro_batches = list(BatchSampler(sampler, micro, drop_last=False))
    per_rank = [micro_batches[rank::ranks] for rank in range(ranks)]
    for step in range(5):
        steps = [own[step * accumulation : (step + 1) * accumulation] for own in per_rank]
        rows = np.concatenate([batch for own in steps for batch in own])
        assert sorted(rows) == sorted(whole[step].tolist())
