"""The time that rates are divided by: that of the steps, without start-up and without what happens between two steps.

start-up | fetch step step step | evaluate | step step | save | probe | step ...
         ^ the watch starts      - paused -             --- paused ---
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import Trainer

from derta.models.flops import ModelFlops, device_peak


class Stopwatch:
    """Seconds of work between two readings. It does not run before its first start, nor inside `paused()`."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._is_paused = False

    def start(self) -> None:
        """Begin, unless it runs already."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        self._since = None

    def read(self) -> float:
        """Seconds since the last reading, 0 if it has not been started; it runs on."""
        if self._since is None:
            return 0.0
        begin, self._since = self._since, time.perf_counter()
        return self._since - begin

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the body out. Work that is queued on the device is waited for first: it belongs to what was before."""
        if self._is_paused or self._since is None:
            yield
            return
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        begin, self._is_paused = time.perf_counter(), True
        try:
            yield
        finally:
            self._is_paused = False
            if self._since is not None:
                self._since += time.perf_counter() - begin


class WithThroughput(Trainer):
    """Two watches over a trainer's work, and what a step computes.

    Attributes:
        step_watch: training steps; starts when the rows of the first step are there.
        eval_watch: evaluation; every evaluation starts it anew.
    """

    step_watch: Stopwatch
    eval_watch: Stopwatch
    _work: tuple[ModelFlops | None, float | None] | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        self.step_watch, self.eval_watch = Stopwatch(), Stopwatch()
        super().__init__(*args, **kwargs)

    def outside_of_steps(self) -> contextlib.AbstractContextManager[None]:
        """For what happens between two steps: rates leave the time of the body out."""
        return self.step_watch.paused()

    def work_and_peak(self) -> tuple[ModelFlops | None, float | None]:
        """FLOPs of a step and of the device in a second; (None, None) where the device's figure is not known."""
        if self._work is None:
            args: Any = self.args
            model: Any = self.model
            sixteen_bit = args.bf16 or args.fp16 or model.dtype in (torch.bfloat16, torch.float16)
            peak = device_peak(args.peak_flops, sixteen_bit=sixteen_bit)
            self._work = (ModelFlops.of(model) if peak is not None else None, peak)
        return self._work

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.step_watch.stop()
        return super().train(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        found = super().get_batch_samples(*args, **kwargs)
        self.step_watch.start()
        return found

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.outside_of_steps():
            return super().evaluate(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self.eval_watch.stop()
        self.eval_watch.start()
        return super().evaluation_loop(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.outside_of_steps():
            super()._save_checkpoint(*args, **kwargs)
