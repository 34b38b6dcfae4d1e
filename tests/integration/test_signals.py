"""A signal on one rank ends all of them with a checkpoint; the next start goes on, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from training_cases import ELSEWHERE, ENVIRONMENT, TORCHRUN, TRAIN, contents, logged, metrics, wait_until

LONG = (
    "trainer.max_steps=30", "optim.scheduler=constant", "optim.learning_rate=1e-2", "peft=lora", "peft.r=4",
    "peft.dropout=0.2", "trainer.micro_batch_size=2", "distributed=zero3",
)  # fmt: skip


def end_alike(start_two: Callable[..., Any], run: Path, settings: tuple[str, ...], steps: int) -> None:
    """What was stopped goes on, to the bits of a run that nothing has stopped."""
    whole = run.with_name("whole")
    for place in (run, whole):
        launch = start_two(place, *settings)
        assert launch.wait() == [0, 0], launch.output
        assert not (place / "preempted.json").exists()
    ours, theirs = (next(place.glob("*model.safetensors")).read_bytes() for place in (run, whole))
    assert ours == theirs
    losses = [[line["loss"] for line in metrics(place) if "loss" in line] for place in (run, whole)]
    assert losses[0] == losses[1] and len(losses[0]) == steps


def test_sigterm_to_one_rank_of_two_under_zero3(arguments, start_two, tmp_path):
    """Under a real torchrun; no checkpoints are asked for (trainer.save_steps=0), and one comes all the same."""
    run, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, *TORCHRUN, str(TRAIN), *arguments(run, *LONG)]
    with log.open("w") as file:
        torchrun = subprocess.Popen(command, env=ENVIRONMENT, stdout=file, stderr=file)
    wait_until(logged(run, 3), lambda: torchrun.poll() is None, log)
    ranks = [child for child in psutil.Process(torchrun.pid).children() if str(TRAIN) in child.cmdline()]
    [rank_1] = [rank for rank in ranks if rank.environ()["RANK"] == "1"]
    rank_1.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    assert torchrun.wait(timeout=60) != 0
    assert time.monotonic() - sent < 30
    said = log.read_text(errors="replace")
    step = json.loads((run / "preempted.json").read_text())["step"]
    assert f"stopped by SIGTERM on rank 1 after step {step}: checkpoint-{step} is complete" in said
    assert said.count("exitcode  : 75") >= 1 and "Signal" not in said, "both ranks ended by themselves"
    assert [path.name for path in run.glob("checkpoint-*")] == [f"checkpoint-{step}"]
    assert json.loads((run / f"checkpoint-{step}" / "complete.json").read_text())["world_size"] == 2
    end_alike(start_two, run, LONG, 30)


@pytest.mark.slow
@pytest.mark.parametrize("case", ELSEWHERE)
def test_a_signal_costs_no_bit(case: str, start_two: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    constant = ("trainer.max_steps=16", "optim.scheduler=constant", "optim.learning_rate=1e-2")
    settings = (*constant, "trainer.micro_batch_size=1", *ELSEWHERE[case])
    launch = start_two(run, *settings)
    wait_until(logged(run, 3))
    os.kill(launch.ranks[1].pid, signal.SIGTERM)
    assert launch.wait() == [75, 75], launch.output
    step = json.loads((run / "preempted.json").read_text())["step"]
    assert 3 <= step < 16 and f"stopped by SIGTERM on rank 1 after step {step}" in launch.output
    end_alike(start_two, run, settings, 16)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_one_rank_alone_exits_with_75(number: signal.Signals, start: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    launch = start(run, "trainer.max_steps=400")
    wait_until(logged(run, 2))
    os.kill(launch.pid, number)
    os.kill(launch.pid, number)  # what comes at once is the same request (a terminal and torchrun both pass it on)
    assert launch.wait() == 75, launch.output
    step = json.loads((run / "preempted.json").read_text())["step"]
    assert f"stopped by {number.name} on rank 0 after step {step}" in launch.output
    assert "Traceback" not in launch.output
    assert (run / f"checkpoint-{step}" / "complete.json").is_file()


def test_a_signal_before_the_first_step_ends_at_once(start: Callable[..., Any], tmp_path: Path) -> None:
    launch = start(tmp_path / "run", "trainer.max_steps=400")
    wait_until(lambda: catches_sigterm(launch.pid))
    os.kill(launch.pid, signal.SIGTERM)
    assert launch.wait() == 75
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def catches_sigterm(pid: int) -> bool:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1)


def test_a_second_signal_ends_at_once_and_harms_nothing(start: Callable[..., Any], tmp_path: Path) -> None:
    """The step never ends (a rank that hangs), so the first signal finds no step boundary."""
    run = tmp_path / "run"
    fault = {"kind": "hang", "rank": 0, "step": 5}
    launch = start(run, "trainer.max_steps=8", "trainer.save_steps=2", fault=fault)
    wait_until((run / "checkpoint-4" / "complete.json").exists, log=launch.log)
    before = contents(run / "checkpoint-4")
    time.sleep(0.5)
    os.kill(launch.pid, signal.SIGTERM)
    time.sleep(1.5)
    began = time.monotonic()
    os.kill(launch.pid, signal.SIGTERM)
    assert launch.wait() == 128 + signal.SIGTERM, launch.output
    assert time.monotonic() - began < 2
    assert "second signal (SIGTERM) on rank 0: the run ends at once; complete checkpoints stay" in launch.output
    assert contents(run / "checkpoint-4") == before
    again = start(run, "trainer.max_steps=8", "trainer.save_steps=2")
    assert again.wait() == 0 and "goes on from" in again.output and "checkpoint-4" in again.output
