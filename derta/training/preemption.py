"""A signal on any one rank ends all of them at the same step boundary, with a normal checkpoint.

    SIGTERM | SIGINT | SIGUSR1 on rank r  ->  noted  ->  agreed at the end of a step  ->  checkpoint  ->  exit code 75

The agreement is one all-reduce of a single number a step. A second signal ends this process at once: checkpoints count
only once their record is written, so the last complete one is not touched.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState

from derta.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# Ctrl-C and Slurm reach ranks twice, directly and through torchrun, which passes signals on: what comes this close
# together (seconds) is one request.
_ONE_REQUEST = 1.0
_RANKS = 1 << 20  # more than any job has: (signal, rank) as one number


class StopRequests:
    """Notes signals from the moment it is entered; a second one ends the process.

    The C-level handler wakes a thread, so that a signal is seen while the main thread waits inside a collective.

    Attributes:
        saving_helps: whether training is under way. Before it there is nothing to save, and a signal ends the process.
        finishing: whether the final model is being written, after which the run ends anyway.
    """

    def __init__(self) -> None:
        self.saving_helps = self.finishing = False
        self.number = 0  # of the first signal
        self._since = 0.0
        self._ended = False

    @contextlib.contextmanager
    def noted(self) -> Iterator[StopRequests]:
        """Outside a main thread (a notebook's worker, say) Python allows no handlers, and nothing is noted."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        before = {number: signal.signal(number, _note_only) for number in SIGNALS}
        woken_before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        _forked_children_do_not_note()
        thread = threading.Thread(target=self._watch, args=(reading,), name="signals", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended = True
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            # Not close() alone: a forked loader worker that is still there holds its end open, and recv would wait on.
            writing.shutdown(socket.SHUT_WR)
            thread.join()
            writing.close()
            reading.close()

    def _watch(self, reading: socket.socket) -> None:
        while data := reading.recv(64):
            for number in data:
                if number in SIGNALS and not self._ended:
                    self._receive(number)

    def _receive(self, number: int) -> None:
        now, name, rank = time.monotonic(), signal.Signals(number).name, os.environ.get("RANK", "0")
        if not self.saving_helps and not self.number:
            _say(f"{name} on rank {rank} before the first step: nothing to save; the run ends")
            os._exit(Preempted.exit_code)
        if not self.number:
            self.number, self._since = number, now
            what = "the final model is being saved" if self.finishing else "a checkpoint is saved after this step"
            _say(f"{name} on rank {rank}: {what}; a second signal ends the run at once")
        elif now - self._since > _ONE_REQUEST:
            _say(f"second signal ({name}) on rank {rank}: the run ends at once; complete checkpoints stay")
            os._exit(128 + number)


def _note_only(number: int, frame: FrameType | None) -> None:
    """Python's part of the handler; the wake-up pipe has told the thread already."""


def _say(line: str) -> None:
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{line}\n".encode())


@functools.cache  # once in a process
def _forked_children_do_not_note() -> None:
    """Loader and tokenising processes: the pipe is not theirs, SIGTERM ends them, and Ctrl-C is their parent's."""

    def reset() -> None:
        if signal.getsignal(signal.SIGTERM) is _note_only:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    os.register_at_fork(after_in_child=reset)


def agreed_signal(number: int, device: torch.device) -> tuple[int, int]:
    """(signal, rank that had it); (0, 0) when no rank had one. Every rank must call it.

    Args:
        number: of the signal this rank had; 0 for none.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return number, 0
    request = torch.tensor(number * _RANKS + dist.get_rank() if number else 0, dtype=torch.int64, device=device)
    dist.all_reduce(request, op=dist.ReduceOp.MAX)
    return divmod(int(request), _RANKS)


class StopAtStepBoundary(TrainerCallback):
    """Ends training after the step in which any rank had a signal.

    Attributes:
        stopped: what to tell the user, once it has ended.
    """

    def __init__(self, requests: StopRequests):
        self.requests = requests
        self.stopped: Preempted | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.requests.saving_helps = True

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        number, rank = agreed_signal(self.requests.number, args.device)
        if number:
            control.should_save = control.should_training_stop = True
            name = signal.Signals(number).name
            self.stopped = Preempted(
                f"stopped by {name} on rank {rank} after step {state.global_step}: checkpoint-{state.global_step} is "
                "complete; start the same command again to go on"
            )
