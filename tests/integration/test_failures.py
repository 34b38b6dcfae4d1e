"""Ranks that die, hang or lose their loader: the cause stands first, and the job ends."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training_cases import TORCHRUN, says_text

FAULTS = Path(__file__).with_name("faults.py")


def test_the_error_of_the_rank_that_died_stands_first(command, arguments, tmp_path: Path) -> None:
    words = arguments(tmp_path / "run", "trainer.micro_batch_size=2", "trainer.max_steps=40")
    fault = json.dumps({"kind": "raise", "rank": 1, "step": 2})
    began = time.monotonic()
    result = command(*TORCHRUN, FAULTS, *words, DERTA_TEST_FAULT=fault)
    assert result.returncode != 0 and time.monotonic() - began < 120
    said = result.stderr
    assert "error on rank 1: Traceback" in said and "RuntimeError: the fault of this test" in said
    first = said.index("error on rank 1")
    assert "error on rank 0" not in said and "Connection closed" not in said[:first]
    assert "Root Cause" in said[first:] and "RuntimeError: the fault of this test" in said[said.index("Root Cause") :]
    assert not says_text(said)


def test_a_rank_that_hangs_is_named(start_two: Callable[..., Any], tmp_path: Path) -> None:
    fault = {"kind": "hang", "rank": 1, "step": 3}
    settings = ("trainer.micro_batch_size=2", "trainer.max_steps=40", "distributed.timeout_minutes=0.5")
    launch = start_two(tmp_path / "run", *settings, fault=fault)
    codes = launch.wait()
    assert codes == [71, 71], launch.output
    assert "the job hangs" in launch.output and "(distributed.timeout_minutes)" in launch.output
    stood = [line for line in launch.ranks[1].output.splitlines() if "faults.py" in line]
    assert stood[-1].endswith("_break"), "the line that does not come back"


def test_a_loader_process_that_dies_is_reported(start: Callable[..., Any], tmp_path: Path) -> None:
    fault = {"kind": "worker", "rank": 0, "step": 2}
    launch = start(tmp_path / "run", "trainer.num_workers=1", "trainer.max_steps=40", fault=fault)
    assert launch.wait() == 1, launch.output
    assert "a loader process died: DataLoader worker (pid" in launch.output
    assert "trainer.num_workers (0 loads in the rank itself)" in launch.output
    assert "Traceback" not in launch.output
