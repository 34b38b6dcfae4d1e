"""Rates, and the time they are divided by: that of the steps, without start-up and what happens between two steps.

start-up | fetch step step step | evaluate | step step | save | probe | step ...
         ^ the watch starts      - paused -             --- paused ---
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

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


def flops_and_peak(args: Any, model: Any) -> tuple[ModelFlops | None, float | None]:
    """FLOPs of a step and of the device in a second; (None, None) where the device's figure is not known.

    Args:
        args: of the trainer, with `peak_flops`.
    """
    sixteen_bit = args.bf16 or args.fp16 or model.dtype in (torch.bfloat16, torch.float16)
    peak = device_peak(args.peak_flops, sixteen_bit=sixteen_bit)
    return (ModelFlops.of(model) if peak is not None else None), peak


def rates(
    total: Mapping[str, float], seconds: float, flops: ModelFlops | None, peak_flops: float | None
) -> dict[str, float]:
    """padding_share (of the tokens the batches have room for), tokens_per_second (input tokens without padding),
    supervised_tokens_per_second, and mfu where the FLOPs are known; no rate where no time was taken.

    Args:
        total: over all ranks: tokens, supervised, slots (room for tokens), squares (of row lengths).
        peak_flops: of all devices together.
    """
    curves = {"padding_share": 1 - total["tokens"] / total["slots"]} if total["slots"] else {}
    if seconds > 0:
        curves["tokens_per_second"] = total["tokens"] / seconds
        curves["supervised_tokens_per_second"] = total["supervised"] / seconds
        if flops is not None and peak_flops is not None:
            done = flops.total(**{name: total[name] for name in ("tokens", "supervised", "squares")})
            curves["mfu"] = done / (seconds * peak_flops)
    return curves
