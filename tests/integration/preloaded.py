"""`python preloaded.py`: commands of launch/ in children of a process that has imported everything already.

Importing torch, transformers, TRL and DeepSpeed takes many times as long as a few steps of a tiny model. One request a
line on stdin and a number in answer: the pid of {"script": name, "arguments": [...], "log": file, "cwd": directory,
"environment": {...}}, the exit code of {"wait": pid}. DERTA_TEST_FAULT there breaks a training (faults.py).
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = REPOSITORY / "launch" / "train.py"
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "integration")]

import deepspeed  # noqa: E402, F401
import peft  # noqa: E402, F401
from faults import break_as_told  # noqa: E402

import derta.training.dpo  # noqa: E402, F401
import derta.training.run  # noqa: E402, F401
import derta.training.trainer  # noqa: E402, F401


def exit_code(script: Path, arguments: list[str]) -> int:
    """Of that script, run in this process; its traceback goes to stderr."""
    sys.argv = [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def run(request: dict) -> int:
    """Exit code of a command."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    break_as_told()
    return exit_code(TRAIN.with_name(f"{request['script']}.py"), request["arguments"])


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        if child := request.get("wait"):
            print("answer", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        child = os.fork()
        if child == 0:
            os._exit(run(request))
        print("answer", child, flush=True)
