"""`torchrun launch_cases.py CASES.json`: launch/train.py once per case, each in a child of this process.

Importing torch, transformers, TRL and DeepSpeed takes several times as long as five steps of a tiny model; here all
cases share one import. A case is {"ranks": 1 or 2, "port": free port, "arguments": [...], "script": another script than
launch/train.py}; a case of one rank runs on rank 0 as plain `python launch/train.py` would, without a process group.
"""

import gc
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from preloaded import TRAIN, exit_code  # noqa: E402


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
    return exit_code(Path(case.get("script", TRAIN)), case["arguments"])


def main() -> None:
    gc.freeze()  # a child that collects garbage need not look through, and copy, what the imports left
    rank = int(os.environ["RANK"])
    for case in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if case["ranks"] == 1 and rank > 0:
            continue
        child = os.fork()
        if child == 0:
            os._exit(run_case(case))
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            sys.exit(f"rank {rank}: case failed: {case['arguments']}")


if __name__ == "__main__":
    main()
