"""Sweep: every combination is a training run in a torchrun of its own, then evaluated; one table at the end.

    python launch/sweep.py -m objective=vanilla,derta trainer.seed=1,2                     one after the other
    python launch/sweep.py -m ... sweep.parallel=2                                         two side by side
    python launch/sweep.py -m ... sweep.gpus=[[0,1,2,3],[4,5,6,7]]                         two, with four GPUs each
    python launch/sweep.py -m ... 'sweep.evaluate=["eval=custom","eval.sets.harmful.path=FILE"]'   evaluation and table
    python launch/sweep.py -m +experiment=miniature_paper objective=vanilla,rto,derta,dpo trainer.seed=1,2

A failed job does not stop the others; the same command again runs what is missing and skips what is finished. Each run
goes to ROOT/ARM-seedN; the arm is the objective and whatever else varies, and sweep.root is runs/sweep unless you name
another. Logs: ROOT/logs. For Slurm: launch/slurm.py.
"""

import os

from derta.config import TrainRunConfig
from derta.config.command import Command
from derta.config.failures import fail


def run(jobs: list[tuple[list[str], TrainRunConfig]]) -> int:
    if "RANK" in os.environ:
        fail("a sweep starts its own torchrun for every job; start it with plain python")
    from derta.sweep.plan import requests, run_sweep

    return int(not run_sweep(requests(jobs)))


main = Command("sweep", TrainRunConfig, about=__doc__, conf="train", together=run)

if __name__ == "__main__":
    main()
