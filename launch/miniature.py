"""The paper's experiment in miniature, on a CPU: data, base model, fine-tuned arms, evaluation, report.

    python launch/miniature.py [seeds=0] [arms=vanilla,derta] [eval=miniature_quick] [output=runs/miniature]

seeds=11,12,13 trains three base models and their arms and reports mean and spread. arms: vanilla, harmful_prefix, rto,
derta, dpo. eval: a choice of conf/eval/. What is done already is not done again.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from derta.config import Arm
from derta.errors import InputError
from derta.sweep.jobs import job_times, run_jobs
from derta.sweep.miniature import plan_study

DEFAULTS = {"seeds": "0", "arms": "vanilla,derta", "eval": "miniature_quick", "output": "runs/miniature"}


def options(arguments: list[str]) -> dict[str, str]:
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if len(given) < len(arguments) or given.keys() - DEFAULTS.keys():
        raise InputError(f"expected key=value with the keys {', '.join(DEFAULTS)}; got {' '.join(arguments)}")
    if not all(seed.strip().isdigit() for seed in given.get("seeds", "0").split(",")):
        raise InputError(f"seeds={given['seeds']}: expected whole numbers separated by commas")
    if unknown := set(given.get("arms", "derta").split(",")) - {arm.value for arm in Arm}:
        raise InputError(f"arms={given['arms']}: unknown {', '.join(unknown)}; use {', '.join(a.value for a in Arm)}")
    return {**DEFAULTS, **given}


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    chosen = options(sys.argv[1:])
    root, cores = Path(chosen["output"]), min(2, os.cpu_count() or 1)
    seeds = [int(seed) for seed in chosen["seeds"].split(",")]
    jobs = plan_study(root, seeds, chosen["arms"].split(","), chosen["eval"], cores)
    begin = time.monotonic()
    run_jobs(jobs, root / "logs", cores)
    print("\nWhere the time went:\n" + job_times(jobs, time.monotonic() - begin) + "\n")
    print((root / "report" / "report.md").read_text(encoding="utf-8"))
    print(f"figures: {', '.join(str(path) for path in sorted((root / 'report').glob('*.png')))}")
    print(f"report: {root / 'report' / 'report.html'} (one file; open it in a browser)")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
