r"""A graph of commands, run side by side on slots; what is done already is not done again.

    job A ----> job B ----> job D         every job is a process of its own with its own log
           \--> job C --/                 a slot is a core or a set of GPUs; a job may take several

A job with a `proof` (a file that its command leaves when it has finished) is skipped by later runs for as long as its
command, its proof and the proofs of the jobs it waits for stay what they were. Proofs are compared by size and time of
change, so a start costs no more with 70B weights than with small ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from derta.config.shipped import command_of
from derta.errors import InputError
from derta.storage.atomic import write_json_atomically
from derta.storage.json_lines import read_lines

_LONGEST_NAME = 200  # bytes
_HEARTBEAT = 15.0  # seconds between progress lines
_POLL = 0.2
_TAIL = 15  # lines of a failed job's log that are shown
_GRACE = 30.0  # seconds a stopped job has before it is killed


class State(Enum):
    """What became of a job."""

    WAITING = "not started"
    RUNNING = "running"
    FINISHED = "finished"
    SKIPPED = "finished before"
    FAILED = "failed"
    BLOCKED = "not run"


@dataclass(eq=False)
class Job:
    """One command.

    after: names of the jobs it waits for. slots: how many it takes at once.
    run_dir: where it writes metrics.jsonl, for the progress line.
    proof: file that is there once it has finished; None where there is none: such a job always runs.
    always: run it although it was finished before; its command finds out quickly that there is nothing to do.
    seconds, core_seconds: how long it took, and how long it kept cores busy (all of its processes together), which
        other work on the machine does not change.
    """

    name: str
    command: list[str]
    after: list[str] = field(default_factory=list)
    slots: int = 1
    run_dir: Path | None = None
    proof: Path | None = None
    always: bool = False
    state: State = State.WAITING
    seconds: float | None = None
    core_seconds: float | None = None
    note: str = ""

    def progress(self) -> str:
        """The last logged step, where the job is a training run, and what the probe saw last."""
        metrics = self.run_dir / "metrics.jsonl" if self.run_dir else None
        if metrics is None:
            return self.name
        last: dict[str, Any] = {}
        for entry in read_lines(metrics):
            last |= entry
        if "loss" not in last:
            return self.name
        auroc = f", AUROC of P(refusal) {float(last['probe/auroc']):.2f}" if "probe/auroc" in last else ""
        return f"{self.name} (step {last['step']}, loss {float(last['loss']):.2f}{auroc})"


def launch_command(script: str, *arguments: str, ranks: int = 1, torchrun: bool = False) -> list[str]:
    """The command for a script of launch/, under torchrun where there are several ranks or it is asked for."""
    launcher = [sys.executable]
    if ranks > 1 or torchrun:
        # --standalone: every job has a rendezvous of its own, on a port that the system picks
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return [*launcher, *command_of(script), *arguments]


def fitting(name: str) -> str:
    """A name that a file may have: file systems take 255 bytes, and an ending comes after it."""
    data = name.encode()
    if len(data) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(data).hexdigest()[:12]
    return f"{data[: _LONGEST_NAME - 13].decode(errors='ignore')}-{digest}"


def run_jobs(
    jobs: Sequence[Job], logs: Path, slots: int | Sequence[Mapping[str, str]], *, keep_going: bool = False
) -> None:
    """Run every job once those it waits for are done, as many at a time as there are slots; states are left in `jobs`.

    Args:
        logs: folder for a log per job, and a record per finished job that has a proof.
        slots: how many, or the environment variables of each (its GPUs).
        keep_going: what does not wait for a failed job goes on.

    Raises:
        InputError: jobs that cannot be told apart; without keep_going: a job failed; the others are stopped, and the
            end of its log is in the message.
    """
    names = [job.name for job in jobs]
    if twins := {name for name in names if names.count(name) > 1}:
        raise InputError(f"several jobs are called {', '.join(sorted(twins))}: leave each of them out but once")
    logs.mkdir(parents=True, exist_ok=True)
    by_name = {job.name: job for job in jobs}
    needed = {job: [by_name[name] for name in job.after if name in by_name] for job in jobs}
    free: list[Mapping[str, str]] = [{} for _ in range(slots)] if isinstance(slots, int) else list(slots)
    running: dict[Job, _Running] = {}
    begin = last_word = time.monotonic()

    def say(text: str) -> None:
        nonlocal last_word
        last_word = time.monotonic()
        print(f"[{last_word - begin:5.0f} s] {text}", flush=True)

    before = _stop_on_sigterm()
    try:
        while running or any(job.state is State.WAITING for job in jobs):
            for job in jobs:
                needs = needed[job]
                if job.state is not State.WAITING or not all(need.state in _OVER for need in needs):
                    continue
                if lost := [need.name for need in needs if need.state in (State.FAILED, State.BLOCKED)]:
                    job.state, job.note = State.BLOCKED, f"waits for {', '.join(lost)}"
                elif _is_done(job, needs, logs):
                    job.state = State.SKIPPED
                    say(f"{job.name}: finished before")
                elif len(free) >= job.slots or not running:
                    taken, free = free[: job.slots], free[job.slots :]
                    running[job] = _start(job, logs, taken)
                    job.state = State.RUNNING
                    say(f"{job.name}: {_shown(job.command)}")
            time.sleep(_POLL if running else 0)
            for job, process in list(running.items()):
                if (ended := _ended(process.popen)) is None:
                    continue
                del running[job]
                free = [*process.taken, *free]
                code, job.core_seconds = ended
                job.seconds = time.monotonic() - process.since
                if code == 0:
                    job.state = State.FINISHED
                    if job.proof and job.proof.is_file():
                        write_json_atomically(_record(job, logs), _description(job, needed[job]))
                    say(f"{job.name}: done in {job.seconds:.0f} s")
                    continue
                job.state, job.note = State.FAILED, f"exit code {code}, see {process.log}"
                if not keep_going:
                    raise InputError(_failure(job, code, process.log))
                say(f"{job.name}: failed with {job.note}")
            if running and time.monotonic() - last_word > _HEARTBEAT:
                say(f"... {', '.join(job.progress() for job in running)}")
    finally:
        _stop([process.popen for process in running.values()])
        if before is not None:
            signal.signal(signal.SIGTERM, before)


_OVER = (State.FINISHED, State.SKIPPED, State.FAILED, State.BLOCKED)


@dataclass
class _Running:
    popen: subprocess.Popen[bytes]
    since: float
    log: Path
    taken: list[Mapping[str, str]]


def _file_name(job: Job) -> str:
    return fitting(job.name.replace(": ", "-").replace(", ", "-").replace(" ", "_").replace("/", "-"))


def _start(job: Job, logs: Path, taken: list[Mapping[str, str]]) -> _Running:
    log = logs / f"{_file_name(job)}.log"
    # One thread per process: two single-threaded processes use two cores better than one process with two threads.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    for slot in taken:
        environment |= slot
    with log.open("wb") as output:
        process = subprocess.Popen(job.command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    return _Running(process, time.monotonic(), log, taken)


def _ended(process: subprocess.Popen[bytes]) -> tuple[int, float] | None:
    """Exit code and core-seconds of a process that has ended; the latter count the processes it has waited for."""
    pid, status, used = os.wait4(process.pid, os.WNOHANG)
    if pid == 0:
        return None
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_utime + used.ru_stime


def _stop_on_sigterm() -> Any:
    """SIGTERM ends this process as Ctrl-C does, so that its jobs end with it; returns what it did before."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _stamp(path: Path | None) -> list[int] | None:
    if path is None or not path.is_file():
        return None
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _record(job: Job, logs: Path) -> Path:
    return logs / f"{_file_name(job)}.done.json"


def _description(job: Job, needs: Sequence[Job]) -> dict[str, object]:
    proofs = {need.name: _stamp(need.proof) for need in needs}
    return {"command": _shown(job.command), "proof": _stamp(job.proof), "needs": proofs}


def _is_done(job: Job, needs: Sequence[Job], logs: Path) -> bool:
    record = _record(job, logs)
    if job.always or _stamp(job.proof) is None or not record.is_file():
        return False
    try:
        return json.loads(record.read_text(encoding="utf-8")) == _description(job, needs)
    except ValueError:
        return False


def _shown(command: Sequence[str]) -> str:
    return shlex.join("python" if part == sys.executable else part for part in command)


def _failure(job: Job, code: int, log: Path) -> str:
    end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:])
    return f"stage '{job.name}' failed with exit code {code}; its log is {log} and ends:\n{end}"


def job_times(jobs: Sequence[Job], total: float) -> str:
    """A table of where the time went; jobs run side by side, so the shares may add up to more than 100%."""
    rows = [(job.name, job.seconds or 0.0) for job in jobs]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {seconds:6.1f} s  {seconds / total:4.0%}" for name, seconds in rows]
    return "\n".join([*lines, f"{'total':<{width}}  {total:6.1f} s"])


def job_states(jobs: Sequence[Job]) -> str:
    """What became of every job, a line each."""
    width = max(len(job.name) for job in jobs)
    lines = []
    for job in jobs:
        took = job.note
        if job.state is State.FINISHED:
            took = f"in {job.seconds:.0f} s ({job.core_seconds:.0f} core-seconds)"
        lines.append(f"{job.name:<{width}}  {job.state.value}{', ' if job.note else ' ' if took else ''}{took}")
    return "\n".join(lines)
