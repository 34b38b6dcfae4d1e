"""Curves are ratios of sums over a window, not means of the micro-batches' ratios."""

import math
import time

import pytest
import torch
from accelerate import Accelerator

from derta.models.flops import ModelFlops
from derta.training.metrics import TokenSums
from derta.training.throughput import Stopwatch


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def add(sums: TokenSums, log_probs: list[float], objective: list[int], correct: list[int], pad: int = 0) -> None:
    slots, kinds = len(objective) + 1, torch.tensor([objective], dtype=torch.int8)
    sums.add(torch.tensor([log_probs]), torch.tensor([correct]).bool(), kinds, [slots - pad], slots)


def test_ratio_of_sums(accelerator):
    """MLE: (1 + 5 + 5 + 5) / 4 = 4, not the mean of 1 and 5. RTO: P = (1/2 + 1/4) / 2, nll = 3 ln 2 / 2."""
    sums = TokenSums(Stopwatch())
    add(sums, [-1.0, math.log(0.5), 0.0], [1, 2, 0], [1, 1, 1], pad=1)
    add(sums, [-5.0, -5.0, -5.0, math.log(0.25)], [1, 1, 1, 2], [1, 0, 0, 0])
    curves = sums.drain(accelerator)
    assert curves["mle_loss"] == pytest.approx(16 / 4)
    assert curves["mle_token_accuracy"] == pytest.approx(2 / 4)
    assert curves["rto_loss"] == pytest.approx(3 * math.log(2) / 2)
    assert curves["refusal_prob"] == pytest.approx(0.75 / 2)
    assert (curves["mle_tokens"], curves["rto_tokens"]) == (4, 2)
    assert curves["padding_share"] == pytest.approx(1 / 9)  # 4 + 5 slots, one of them padding
    assert curves["num_tokens"] == 8


def test_absent_objective_has_no_curve(accelerator):
    sums = TokenSums(Stopwatch())
    add(sums, [-1.0, -2.0], [1, 1], [0, 0])
    curves = sums.drain(accelerator)
    assert curves["mle_loss"] == pytest.approx(1.5) and curves["rto_tokens"] == 0
    assert not {"rto_loss", "refusal_prob"} & curves.keys()
    add(sums, [-1.0], [2], [0])
    curves = sums.drain(accelerator)
    assert curves["rto_loss"] == pytest.approx(1.0) and not {"mle_loss", "mle_token_accuracy"} & curves.keys()


def test_windows_start_again_and_unsupervised_positions_count_for_nothing(accelerator):
    sums = TokenSums(Stopwatch())
    assert sums.drain(accelerator) == {}
    add(sums, [-8.0], [1], [0])
    sums.drain(accelerator)
    assert sums.drain(accelerator) == {}
    add(sums, [-2.0], [1], [0])
    curves = sums.drain(accelerator)
    assert curves["mle_loss"] == pytest.approx(2.0) and curves["mle_tokens"] == 1
    assert curves["num_tokens"] == 2  # of the window alone; the trainer adds windows up
    # log P of a position without label may be anything, even -inf.
    add(sums, [-math.inf, -2.0, math.nan], [0, 1, 0], [1, 0, 1])
    assert sums.drain(accelerator)["mle_loss"] == pytest.approx(2.0)


def test_rates_are_those_of_the_time_on_the_watch(accelerator):
    """Not of the time since the sums were made, nor of a pause, nor of a pause within a pause."""
    watch = Stopwatch()
    sums = TokenSums(watch)
    time.sleep(0.05)  # start-up
    add(sums, [-1.0, -1.0], [1, 0], [0, 0])
    assert "tokens_per_second" not in sums.drain(accelerator), "a watch that stands still gives no rate"
    watch.start()
    begin = time.perf_counter()
    add(sums, [-1.0, -1.0], [1, 0], [0, 0])
    with watch.paused(), watch.paused():
        time.sleep(0.2)
    curves = sums.drain(accelerator)
    elapsed = 3 / curves["tokens_per_second"]
    assert 0 < elapsed < time.perf_counter() - begin - 0.19
    assert curves["supervised_tokens_per_second"] == pytest.approx(curves["tokens_per_second"] / 3)


def test_model_flops_utilisation(accelerator):
    """5 tokens x 10 + 2 supervised x 100 + (3 x 3 + 2 x 2) x 1 = 263 FLOP, over what the device does in the time."""
    watch = Stopwatch()
    sums = TokenSums(watch)
    watch.start()
    sums.add(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([[1, 2], [0, 0]]), [3, 2], 6)
    flops = ModelFlops(per_token=10, per_supervised=100, per_square=1)
    curves = sums.drain(accelerator, flops, peak_flops=1e3)
    assert curves["mfu"] == pytest.approx(263 / 1e3 / (5 / curves["tokens_per_second"]))
    sums.add(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([[1, 2], [0, 0]]), [3, 2], 6)
    assert "mfu" not in sums.drain(accelerator), "no figure for the device, no share of it"


def test_a_micro_batch_waits_for_nothing():
    """Tensors without values cannot be read: whoever asks the device for one fails here."""
    sums = TokenSums(Stopwatch())
    for _ in range(2):
        objective = torch.empty((2, 5), dtype=torch.int8, device="meta")
        sums.add(torch.empty((2, 5), device="meta"), torch.empty((2, 5), device="meta"), objective, [6, 4], 12)
    assert sums._on_device.device.type == "meta" and sums._on_host == [20, 24, 104]
