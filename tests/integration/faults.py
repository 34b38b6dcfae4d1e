"""Faults put into a training process: `python faults.py ...` is launch/train.py with one of them.

DERTA_TEST_FAULT is JSON: {"kind": ..., "rank": the rank it befalls, "step": the step in which it does}.

    nan        the loss of that micro-batch is NaN
    gradient   that loss is finite, and its gradient is not
    raise      an exception of the user's own
    kill       SIGKILL to itself, as the kernel does when memory runs out
    hang       it never comes back
    worker     a loader process of that rank is killed
"""

import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any


def break_as_told() -> None:
    """Wrap the loss of our trainers' micro-batches, if a fault is asked for."""
    told = os.environ.get("DERTA_TEST_FAULT")
    if not told:
        return
    fault = json.loads(told)
    if int(os.environ.get("RANK", "0")) != fault["rank"]:
        return
    from derta.training.guards import Guards

    whole = Guards.watched

    def broken(self: Any, loss: Any) -> Any:
        if self.trainer.state.global_step + 1 == fault["step"]:
            loss = _break(fault["kind"], loss)
        return whole(self, loss)

    Guards.watched = broken  # type: ignore[method-assign]


def _break(kind: str, loss: Any) -> Any:
    if kind == "nan":
        return loss * float("nan")
    if kind == "gradient":  # a finite loss whose gradient is not
        return loss + (loss - loss.detach()) * 1e38 * 1e38  # 0, and infinity on the way back
    if kind == "raise":
        raise RuntimeError("the fault of this test")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        time.sleep(600)
    if kind == "worker":
        import torch

        workers = [child for child in torch.multiprocessing.active_children()]
        os.kill(workers[0].pid, signal.SIGKILL)  # type: ignore[arg-type]
        time.sleep(1)
    return loss


if __name__ == "__main__":
    repository = Path(__file__).resolve().parents[2]
    break_as_told()
    sys.argv[0] = str(repository / "launch" / "train.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
