"""Progress in a terminal and in the log of a job, on the streams themselves."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time

import pytest

from derta import progress as progress_module
from derta.progress import progress


def _work(steps: int, seconds: float) -> None:
    with progress(steps, "responses", "rows") as bar:
        for _ in range(steps):
            time.sleep(seconds)
            bar.update(1)


def test_a_log_gets_whole_lines_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "SECONDS", 0.1)
    _work(10, 0.05)
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert 2 <= len(lines) <= 7 and all(" of 10 rows, 00:00 gone, 00:00 left" in line for line in lines)
    assert "\r" not in printed.err and printed.out == ""


def test_short_work_and_silent_ranks_leave_no_line_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _work(3, 0.0)
    monkeypatch.setattr(progress_module, "SECONDS", 0.0)
    with progress(3, "responses", shown=False) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_with_the_time_left() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))  # lines, columns
    code = (
        "import time; from derta.progress import progress\n"
        "with progress(4, 'responses') as bar:\n for _ in range(4): time.sleep(0.15); bar.update(1)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0
    assert shown.count("\r") >= 3 and "responses:  50%" in shown and "<00:00" in shown
