"""`torchrun launch_cases.py CASES.json`: launch/train.py once per case, each in a child of this process.

Importing torch, transformers, TRL and DeepSpeed takes several times as long as five steps of a tiny model; here all
cases share one import. A case is {"ranks": 1 or 2, "port": free port, "arguments": [...], "script": another script than
launch/train.py}; a case of one rank runs on rank 0 as plain `python launch/train.py` would, without a process group.
"""

import gc
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import deepspeed  # noqa: E402, F401
import peft  # noqa: E402, F401

import derta.training.run  # noqa: E402, F401
import derta.training.trainer  # noqa: E402, F401


def run_case(case: dict) -> int:
    """Exit code of the script."""
    if case["ranks"] == 1:
        for name in [name for name in os.environ if name.startswith(("TORCHELASTIC_", "LOCAL_", "GROUP_", "ROLE_"))]:
            del os.environ[name]
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
    else:  # each case meets at its own port, not at torchrun's store, where the keys of the last case still lie
        os.environ["MASTER_PORT"] = str(case["port"])
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    script = Path(case.get("script", REPOSITORY / "launch" / "train.py"))
    sys.argv = [str(script), *case["arguments"]]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    gc.freeze()  # a child that collects garbage need not look through, and copy, what the imports left
    rank = int(os.environ["RANK"])
    for case in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if case["ranks"] == 1 and rank > 0:
            continue
        child = os.fork()
        if child == 0:
            code = run_case(case)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            sys.exit(f"rank {rank}: case failed: {case['arguments']}")


if __name__ == "__main__":
    main()
