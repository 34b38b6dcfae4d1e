"""The runner of jobs: order, slots, failures, and what a second run leaves out. Jobs are real processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from derta.config.paths import quoted
from derta.errors import InputError
from derta.sweep.jobs import Job, State, job_states, job_times, launch_command, run_jobs


def python(name: str, code: str, **kwargs) -> Job:
    return Job(name, [sys.executable, "-c", code], **kwargs)


def appending(path: Path, text: str) -> str:
    return f"open({str(path)!r}, 'a').write({text!r})"


def states(jobs: list[Job]) -> dict[str, State]:
    return {job.name: job.state for job in jobs}


def test_jobs_run_in_order_and_are_timed(tmp_path):
    path = tmp_path / "order"
    jobs = [
        python("third", appending(path, "3"), after=["second"]),
        python("first", appending(path, "1")),
        python("second", appending(path, "2"), after=["first"], slots=2),
    ]
    run_jobs(jobs, tmp_path / "logs", slots=2)
    assert path.read_text() == "123"
    assert all(job.seconds is not None and job.seconds > 0 for job in jobs)
    assert "third" in job_times(jobs, total=10.0)


def test_a_failed_job_stops_the_others_and_shows_the_end_of_its_log(tmp_path):
    marker = tmp_path / "never"
    jobs = [
        python("bad", "import sys; print('what went wrong'); sys.exit(3)"),
        python("next", f"open({str(marker)!r}, 'w')", after=["bad"]),
    ]
    with pytest.raises(InputError, match=r"stage 'bad' failed with exit code 3(.|\n)*what went wrong"):
        run_jobs(jobs, tmp_path / "logs", slots=1)
    assert not marker.exists()


def test_when_asked_to_keep_going_only_what_waits_for_a_failed_job_is_left_out(tmp_path):
    made = tmp_path / "made"
    jobs = [
        python("bad", "raise SystemExit(3)"),
        python("behind bad", appending(made, "no"), after=["bad"]),
        python("behind that", appending(made, "no"), after=["behind bad"]),
        python("good", appending(made, "good")),
        python("behind good", appending(made, " too"), after=["good"]),
    ]
    run_jobs(jobs, tmp_path / "logs", slots=1, keep_going=True)
    assert made.read_text() == "good too"
    ended = [State.FAILED, State.BLOCKED, State.BLOCKED, State.FINISHED, State.FINISHED]
    assert [job.state for job in jobs] == ended
    shown = job_states(jobs)
    assert "exit code 3" in shown and "not run, waits for behind bad" in shown


def test_a_second_run_does_only_what_failed_and_what_has_changed(tmp_path):
    log, fixed = tmp_path / "log", tmp_path / "fixed"

    def jobs(word: str = "b") -> list[Job]:
        def job(name: str, **kwargs) -> Job:
            proof = tmp_path / f"{name}.proof"
            check = f"import os; assert {name!r} != 'bad' or os.path.exists({str(fixed)!r}); "
            code = f"{check}{appending(log, name + word * (name == 'b') + ' ')}; open({str(proof)!r}, 'w').write('x')"
            return python(name, code, proof=proof, **kwargs)

        return [job("a"), job("bad"), job("b", after=["a"]), job("c", after=["b"]), job("d", after=["bad"])]

    def run(word: str = "b") -> tuple[str, dict[str, State]]:
        log.write_text("")
        now = jobs(word)
        run_jobs(now, tmp_path / "logs", slots=2, keep_going=True)
        return " ".join(sorted(log.read_text().split())), states(now)

    assert run()[0] == "a bb c"
    fixed.touch()
    ran, found = run()
    assert ran == "bad d" and found["a"] is found["c"] is State.SKIPPED
    assert run("changed")[0] == "bchanged c"  # another command, and what was made from its result
    (tmp_path / "a.proof").unlink()
    assert run("changed")[0] == "a bchanged c"
    assert run("changed")[0] == ""


def test_a_job_that_always_runs_moves_the_others_only_when_its_result_changes(tmp_path):
    data, log = tmp_path / "data", tmp_path / "log"

    def run(content: str) -> str:
        log.write_text("")
        write = f"import os; p = {str(data)!r}; new = {content!r}; old = os.path.exists(p) and open(p).read()"
        jobs = [
            python("data", f"{write}; old == new or open(p, 'w').write(new)", proof=data, always=True),
            python("model", f"{appending(log, 'trained')}; {appending(tmp_path / 'model', 'x')}", after=["data"]),
        ]
        jobs[1].proof = tmp_path / "model"
        run_jobs(jobs, tmp_path / "logs", slots=1)
        return log.read_text()

    assert run("one") == "trained"
    assert run("one") == ""
    assert run("other") == "trained"


def test_slots_are_places_of_their_own(tmp_path):
    """Two jobs side by side see different GPUs; each place is taken again when it is free."""
    where = tmp_path / "where"
    code = (
        f"import os, time; open({str(where)!r}, 'a').write(os.environ['CUDA_VISIBLE_DEVICES'] + '\\n'); time.sleep(.6)"
    )
    jobs = [python(str(i), code) for i in range(4)]
    run_jobs(jobs, tmp_path / "logs", [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}])
    lines = where.read_text().split()
    assert sorted(lines[:2]) == ["0,1", "2,3"] and sorted(lines) == ["0,1", "0,1", "2,3", "2,3"]


def test_twins_are_refused(tmp_path):
    with pytest.raises(InputError, match="several jobs are called same"):
        run_jobs([python("same", ""), python("same", "")], tmp_path, slots=1)


def test_a_long_name_has_a_log_and_a_record_all_the_same(tmp_path):
    jobs = [python("ü" * 300 + end, appending(tmp_path / end, end), proof=tmp_path / end) for end in "ab"]
    run_jobs(jobs, tmp_path / "logs", slots=1)
    assert len(list((tmp_path / "logs").glob("*.log"))) == len(list((tmp_path / "logs").glob("*.done.json"))) == 2


def test_commands_and_values():
    assert "torch.distributed.run" not in launch_command("evaluate", "a=b")
    command = launch_command("train", "a=b", torchrun=True)
    assert command[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    assert quoted("runs/seed-1/base") == "runs/seed-1/base"
    assert quoted("it's 1,2=3") == r"'it\'s 1,2=3'"


def test_core_seconds_are_those_of_all_processes_of_a_job(tmp_path):
    busy = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    jobs = [python("busy", parent), python("idle", "import time; time.sleep(0.3)")]
    run_jobs(jobs, tmp_path, slots=2)
    by_name = {job.name: job.core_seconds for job in jobs}
    assert by_name["busy"] >= 0.3 > by_name["idle"]


def test_progress_says_what_was_logged_last(tmp_path):
    """Loss and probe stand in lines of their own; the last line may be half written, and numbers may be text."""
    job = Job("derta", [], run_dir=tmp_path)
    assert job.progress() == "derta"
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 0, "probe/auroc": 0.5}\n')
    assert job.progress() == "derta"
    metrics.write_text('{"step": 20, "loss": 1.234}\n{"step": 40, "loss": "nan"}\n{"step": 60, "lo')
    assert job.progress() == "derta (step 40, loss nan)"
    metrics.write_text('{"step": 20, "loss": 1.234}\n{"step": 40, "probe/auroc": 0.987}\n')
    assert job.progress() == "derta (step 40, loss 1.23, AUROC of P(refusal) 0.99)"
