"""Guards, preemption and full disks of two ranks where the other tests do not go: bfloat16, ZeRO-1, offload, FSDP2,
dpo."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_signals import wait_for_lines
from training_cases import metrics, says_text, size_of

CASES = {
    "bf16, data parallel": ("distributed=none", "model.dtype=bfloat16"),
    "bf16, ZeRO-1": ("distributed=zero1", "model.dtype=bfloat16"),
    "bf16, ZeRO-3, offload": ("distributed=zero3_offload", "model.dtype=bfloat16"),
    "bf16, FSDP2": ("distributed=fsdp2", "model.dtype=bfloat16"),
    "dpo, ZeRO-2": ("distributed=zero2", "objective=dpo"),
}
COMMON = ("trainer.micro_batch_size=1", "optim.scheduler=constant", "optim.learning_rate=1e-2")


def not_finite_on_one_rank(case: str, start_two: Callable[..., Any], run: Path) -> None:
    settings = (*COMMON, *CASES[case], "trainer.max_steps=4", "trainer.save_steps=2")
    launch = start_two(run, *settings, fault={"kind": "nan", "rank": 1, "step": 4})
    assert launch.wait() == [65, 65], launch.output
    said = launch.ranks[0].output
    assert "step 4 was stopped before its update: the loss is not finite" in said
    assert "  - rank 1, micro-batch 0: loss nan, rows " in said and "the last good checkpoint is checkpoint-2" in said
    assert [line["step"] for line in metrics(run)] == [1, 2, 3] and not says_text(launch.output)


def test_not_finite_in_bfloat16_under_zero_1(start_two: Callable[..., Any], tmp_path: Path) -> None:
    not_finite_on_one_rank("bf16, ZeRO-1", start_two, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case != "bf16, ZeRO-1"])
def test_not_finite_elsewhere(case: str, start_two: Callable[..., Any], tmp_path: Path) -> None:
    not_finite_on_one_rank(case, start_two, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_signal_costs_no_bit(case: str, start_two: Callable[..., Any], tmp_path: Path) -> None:
    """SIGTERM to rank 1; the same command goes on, to the bits of a run that nothing has stopped."""
    settings = (*COMMON, *CASES[case], "trainer.max_steps=16")
    run, whole = tmp_path / "run", tmp_path / "whole"
    launch = start_two(run, *settings)
    wait_for_lines(run, 3, lambda: launch.ranks[0].code is None)
    os.kill(launch.ranks[1].pid, signal.SIGTERM)
    assert launch.wait() == [75, 75], launch.output
    step = json.loads((run / "preempted.json").read_text())["step"]
    assert 3 <= step < 16 and f"stopped by SIGTERM on rank 1 after step {step}" in launch.output
    for place in (run, whole):
        again = start_two(place, *settings)
        assert again.wait() == [0, 0], again.output
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    ours, theirs = ([line.get("loss") for line in metrics(place)] for place in (run, whole))
    assert ours == theirs and len(ours) == 17


def test_a_full_disk_under_two_ranks(start_two, small_disk, tmp_path):
    """Each rank writes a share of the checkpoint; one that finds no room ends both, and what was complete leads on."""
    settings = (*COMMON, "distributed=zero2", "trainer.max_steps=4", "trainer.save_steps=2")
    whole = tmp_path / "whole"
    assert start_two(whole, *settings).wait() == [0, 0]
    checkpoint = size_of(whole / "checkpoint-2")
    run = small_disk(int(1.6 * checkpoint) + 3 * 4096) / "run"
    full = start_two(run, *settings)
    codes = full.wait()
    assert all(codes) and 2 in codes, full.output
    assert f"the disk of output_dir={run} is full" in full.output and not says_text(full.output)
    assert (run / "checkpoint-2" / "complete.json").is_file()
    assert not (run / "checkpoint-4" / "complete.json").exists() and not (run / "finished.json").exists()
    small_disk(64 * 1024 * 1024)
    again = start_two(run, *settings)
    assert again.wait() == [0, 0] and "goes on from" in again.output, again.output
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
