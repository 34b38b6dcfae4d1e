"""A rank that stops moving is named, with the place in the code where it stands, before the timeout kills the job.

A collective that times out says which rank waited, not which one never came. So a thread in every rank looks at how
long ago its main thread last moved; past the limit each rank tells the others where it is, and one prints the table:
the rank that is behind, or gives no answer at all, is the one to look at.
"""

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState

from derta.errors import RankLost

_SHARE = 0.9  # of the timeout: the report must come before the collectives give up
_ANSWERS = 5.0  # seconds to wait for what the other ranks say
_KEY = "derta/hang/"


class HangWatch(TrainerCallback):
    """Ends this process when no phase of a step has begun or ended for 90% of `timeout` seconds.

    Args:
        timeout: what a collective waits (`distributed.timeout_minutes`), in seconds.
    """

    def __init__(self, timeout: float):
        self.limit = timeout * _SHARE
        self.moved = time.monotonic()
        self.place = "the start of training"
        self._order = (0, 0)

    def _at(self, step: int, phase: int, name: str) -> None:
        self.moved, self.place, self._order = time.monotonic(), f"step {step}, {name}", (step, phase)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._at(state.global_step + 1, 1, "forward and backward")

    on_substep_end = on_step_begin

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._at(state.global_step + 1, 2, "optimizer")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        saves = control.should_save or control.should_log
        self._at(state.global_step, 3, "saving or logging, or loading the next rows" if saves else "loading rows")

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._at(state.global_step, 4, "saving, or loading the next rows")

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._at(state.global_step, 5, "loading the next rows")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Watch while the body runs (in the main thread, whose place is printed)."""
        self.moved = time.monotonic()
        ended = threading.Event()
        main = threading.get_ident()
        grouped = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        # A connection of its own: the main thread may be waiting on the other one.
        default: Any = dist.distributed_c10d._get_default_store() if grouped else None
        store = default.clone() if grouped else None
        thread = threading.Thread(target=self._watch, args=(ended, main, store), name="hangs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _watch(self, ended: threading.Event, main: int, store: Any) -> None:
        while not ended.wait(min(1.0, self.limit / 10)):
            if time.monotonic() - self.moved > self.limit:
                frames = traceback.extract_stack(sys._current_frames()[main])
                self._report([f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames], store)
                os._exit(RankLost.exit_code)

    def _report(self, stack: list[str], store: Any) -> None:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        own = {"place": self.place, "order": self._order, "still": round(time.monotonic() - self.moved)}
        answers = {rank: own}
        if store is not None:
            store.set(f"{_KEY}{rank}", json.dumps(own))
            time.sleep(_ANSWERS)
            for other in range(size):
                with contextlib.suppress(RuntimeError):  # no answer
                    store.wait([f"{_KEY}{other}"], timedelta(milliseconds=100))
                    answers[other] = json.loads(store.get(f"{_KEY}{other}"))
        lines = [
            f"rank {rank} has not moved for {own['still']} s: {own['place']}, at",
            *(f"  {at}" for at in stack[-6:]),
        ]
        if rank == min(answers):
            lines = [verdict(answers, size), *lines]
        os.write(2, ("\n".join(lines) + "\n").encode())


def verdict(answers: dict[int, dict[str, Any]], size: int) -> str:
    """Which rank the others wait for. answers: where each rank that still answers is."""
    silent = [rank for rank in range(size) if rank not in answers]
    first = max(tuple(answer["order"]) for answer in answers.values())
    behind = [rank for rank, answer in answers.items() if tuple(answer["order"]) < first]
    table = [f"  rank {rank}: {answer['place']}, for {answer['still']} s" for rank, answer in sorted(answers.items())]
    table += [f"  rank {rank}: no answer (stopped, or its machine is gone)" for rank in silent]
    named = ", ".join(str(rank) for rank in silent or behind)
    head = f"the job hangs: the others wait for rank {named}" if named else "the job hangs, all ranks at the same place"
    return "\n".join([f"{head} (distributed.timeout_minutes)", *table])
