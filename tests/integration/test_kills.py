"""SIGKILL to every rank at random moments, in the middle of saving included: the same command again, the same bits.

Every case is a run of its own that is killed once and then goes on to its end, in fresh processes; LoRA dropout is on.
The short version forks its processes from one that has imported everything; the slow one (20 kills) starts them with
`python` and `torchrun` as a user would.
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from training_cases import ENVIRONMENT, TORCHRUN, TRAIN, logged, metrics, partial, step_of

STEPS = 12
SETTINGS = (
    f"trainer.max_steps={STEPS}", "trainer.save_steps=2", "optim.scheduler=constant", "optim.learning_rate=1e-2",
    "peft=lora", "peft.r=4", "peft.dropout=0.2", "objective.rto_dropout=0.3",
)  # fmt: skip
ENGINES = {"single": (), "zero2": ("trainer.micro_batch_size=2", "distributed=zero2"),
           "zero3": ("trainer.micro_batch_size=2", "distributed=zero3")}  # fmt: skip
WEIGHTS = "adapter_model.safetensors"
KINDS = ("save", "half", "step", "any")


@dataclass
class Moment:
    """When to kill: `kind` save (a checkpoint has begun), half (one lies there unfinished, with all ranks held still),
    step (some step has ended) or any (a share of the time of the whole run), and then `wait` seconds later."""

    kind: str
    step: int
    share: float
    wait: float

    @classmethod
    def draw(cls, rng: random.Random, kind: str):
        step = rng.randrange(2, STEPS, 2) if kind in ("save", "half") else rng.randint(1, STEPS - 1)
        return cls(kind, step, rng.random(), rng.uniform(0, 0.02 if kind == "half" else 0.3))

    def come(self, run: Path, began: float, seconds: float) -> bool:
        if self.kind == "save":
            return (run / f"checkpoint-{self.step}").exists()
        if self.kind == "half":  # this one, or else one of the next
            return any(step_of(path) >= self.step and any(path.iterdir()) for path in partial(run))
        if self.kind == "any":
            return time.monotonic() - began > self.share * seconds
        return logged(run, self.step)()


def killed(moment: Moment, launch: Any, run: Path, seconds: float) -> str | None:
    """Kill the run at that moment; what it had on disk then, or None if it had ended before."""
    began = time.monotonic()
    while True:
        while not moment.come(run, began, seconds):
            if launch.ended() or time.monotonic() - began > 300:
                return None
            time.sleep(0.001)
        time.sleep(moment.wait)
        if launch.ended() or (run / "finished.json").exists():
            return None
        launch.suspend()
        if moment.kind != "half" or moment.come(run, began, seconds):
            break
        launch.go_on()  # it was finished meanwhile
    launch.kill()
    checkpoints = sorted(run.glob("checkpoint-*"), key=step_of)
    complete = [path.name for path in checkpoints if (path / "complete.json").exists()]
    half = partial(run)
    logged = run / "metrics.jsonl"
    lines = logged.read_text(errors="replace").count("\n") if logged.exists() else 0
    return f"{lines} lines of metrics, {complete[-1] if complete else 'no checkpoint'}" + (
        f", {len(list(half[0].rglob('*')))} files of {half[0].name}" if half else ""
    )


def survives(run: Path, engine: str, moment: Moment, start: Callable[..., Any], seconds: float, whole: Path) -> str:
    """Kill, start again, compare; returns what was on disk when it was killed ("" if it had ended before)."""
    found = killed(moment, start(run, engine), run, seconds)
    again = start(run, engine)
    assert again.end() == 0, again.output
    assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes(), f"{engine}, {moment}: {found}"
    ours, theirs = metrics(run), metrics(whole)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert [line.get("loss") for line in ours] == [line.get("loss") for line in theirs]
    return found or ""


# The short version


class Killable:
    """A run whose processes can be held still and killed; `processes`: whoever looks after the others first."""

    def processes(self) -> list[psutil.Process]:
        raise NotImplementedError

    def suspend(self) -> None:
        """torchrun first: it would tell the others to stop if it saw one die."""
        for process in self.processes():
            process.suspend()

    def go_on(self) -> None:
        for process in reversed(self.processes()):
            process.resume()

    def kill(self) -> None:
        for process in reversed(self.processes()):
            process.kill()
        self.end()


@dataclass
class Forked(Killable):
    launch: Any  # TwoRanks

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(rank.pid) for rank in self.launch.ranks]

    def ended(self) -> bool:
        return any(process.status() == psutil.STATUS_ZOMBIE for process in self.processes())

    def end(self) -> int:
        return max(map(abs, self.launch.wait()))

    @property
    def output(self) -> str:
        return self.launch.output


@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_a_kill_costs_no_bit(engine: str, start_two: Callable[..., Any], tmp_path: Path) -> None:
    """In the middle of saving; on one rank test_resume.py kills behind a checkpoint, with RTO dropout and no LoRA."""

    def launch(run: Path, engine: str) -> Forked:
        return Forked(start_two(run, *SETTINGS, *ENGINES[engine]))

    began = time.monotonic()
    whole = launch(tmp_path / "whole", engine)
    assert whole.end() == 0, whole.output
    moment = Moment.draw(random.Random(7), "half")
    found = survives(tmp_path / "run", engine, moment, launch, time.monotonic() - began, tmp_path / "whole")
    assert "files of checkpoint" in found


# The slow version


@dataclass
class Command(Killable):
    process: subprocess.Popen
    log: Path

    def processes(self) -> list[psutil.Process]:
        tree = psutil.Process(self.process.pid)
        return [tree, *tree.children(recursive=True)]

    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> int:
        return self.process.wait(timeout=600)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


@pytest.mark.slow
def test_twenty_kills(arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def launch(run: Path, engine: str) -> Command:
        command = [sys.executable, *(TORCHRUN if engine != "single" else []), str(TRAIN)]
        log = tmp_path / f"{run.name}-{time.monotonic_ns()}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [*command, *arguments(run, *SETTINGS, *ENGINES[engine])], cwd=tmp_path, env=ENVIRONMENT,
                stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        return Command(process, log)

    rng, seconds, cases = random.Random(20), {}, []
    for engine in ENGINES:
        began = time.monotonic()
        whole = launch(tmp_path / f"whole-{engine}", engine)
        assert whole.end() == 0, whole.output
        seconds[engine] = time.monotonic() - began
    while len(cases) < 20:
        engine = list(ENGINES)[len(cases) % 3]
        moment = Moment.draw(rng, KINDS[len(cases) // 3 % 4])
        run = tmp_path / f"run-{len(cases)}-{time.monotonic_ns()}"
        whole_run = tmp_path / f"whole-{engine}"
        found = survives(run, engine, moment, launch, seconds[engine], whole_run)
        if not found:  # the run was faster than the moment: no kill, not counted
            continue
        cases.append(found)
        with capsys.disabled():
            print(f"\nkill {len(cases):2}  {engine:6}  {moment.kind:4}  {found:66}  weights equal", end="", flush=True)
