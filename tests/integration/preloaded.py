"""`python preloaded.py`: launch/train.py in a child of a process that has imported everything already.

Importing torch, transformers, TRL and DeepSpeed takes many times as long as a few steps of a tiny model. One request a
line on stdin, {"arguments": [...], "log": file, "cwd": directory, "environment": {...}}; the answers are {"pid": ...}
and then {"code": ...}. DERTA_TEST_FAULT in the environment breaks the run on purpose (see faults.py).
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "integration")]

import deepspeed  # noqa: E402, F401
import peft  # noqa: E402, F401
from faults import break_as_told  # noqa: E402

import derta.training.dpo  # noqa: E402, F401
import derta.training.run  # noqa: E402, F401
import derta.training.trainer  # noqa: E402, F401


def run(request: dict) -> int:
    """Exit code of launch/train.py."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(request["cwd"])
    os.environ.update(request.get("environment", {}))
    break_as_told()
    script = REPOSITORY / "launch" / "train.py"
    sys.argv = [str(script), *request["arguments"]]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        code = run(json.loads(line))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print("answer", json.dumps({"pid": child}), flush=True)
    print("answer", json.dumps({"code": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}), flush=True)
