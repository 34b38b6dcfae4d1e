"""How things are measured: ours and a peer in turn (A B A B), medians, the ratio of neighbours, peak memory."""

import contextlib
import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from derta.storage.versions import package_versions

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "tokenizers")
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Line:
    """One line of the table. `ratio` is ours / peer; `goal` bounds it, from above unless `at_least`."""

    suite: str
    what: str
    unit: str
    ours: float | None
    peer: float | None = None
    peer_name: str = ""
    ratio: float | None = None
    goal: float | None = None
    at_least: bool = False
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; a line without a peer has its goal on `ours`."""
        value = self.ours if self.peer is None else self.ratio
        if self.goal is None or value is None:
            return None
        return value >= self.goal if self.at_least else value <= self.goal


def in_turn(
    suite: str, what: str, unit: str, ours: Callable[[], float], peer: Callable[[], float], rounds: int, **line: Any
) -> Line:
    """Call both in turn; each call returns its own measurement. The first round warms up and is not counted."""
    _, *pairs = [(ours(), peer()) for _ in range(rounds + 1)]
    return compared(suite, what, unit, [a for a, _ in pairs], [b for _, b in pairs], **line)


def compared(suite: str, what: str, unit: str, mine: list[float], theirs: list[float], **line: Any) -> Line:
    """Medians, and the median of the ratios of neighbouring measurements: noise that lasts hits both alike."""
    return Line(
        suite,
        what,
        unit,
        ours=statistics.median(mine),
        peer=statistics.median(theirs),
        ratio=statistics.median(a / b for a, b in zip(mine, theirs, strict=True)),
        samples={"ours": mine, "peer": theirs},
        **line,
    )


def _cpu() -> float:
    """Of this process and of those it has started and waited for."""
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": _cpu}
_clock = "wall"


def use_clock(name: str) -> None:
    """What `seconds` are: `wall`, or `cpu`, which other jobs on the machine hardly touch (for one thread per process;
    waiting for a disk or for another rank does not show)."""
    global _clock
    _clock = name


def now() -> float:
    return CLOCKS[_clock]()


def seconds(function: Callable[[], Any]) -> float:
    begin = now()
    function()
    return now() - begin


def with_peak(work: Callable[[], Any], held: int | None = None) -> tuple[Any, float]:
    """What `work` returns, and the MiB that it needed at its highest beyond what was held before: of the process's
    resident memory (Linux: VmHWM, which can be reset), or of the CUDA device if there is one, beyond `held` bytes where
    that is given."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if held is None else held
        result = work()
        return result, (torch.cuda.max_memory_allocated() - before) / 2**20
    with contextlib.suppress(OSError, AttributeError):  # not glibc: the mark before is a little higher
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")  # the highest mark falls to what is resident now
    resident = _resident("VmRSS")
    result = work()
    return result, (_resident("VmHWM") - resident) / 2**10


def _resident(field_name: str) -> float:
    """KiB, of /proc/self/status; NaN where there is none."""
    if not _STATUS.exists():
        return float("nan")
    return next(float(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(field_name))


def machine() -> dict[str, Any]:
    """Machine and versions, without names of the host."""
    import torch

    described = {
        "python": platform.python_version(),
        **package_versions(PACKAGES),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "clock": _clock,
    }
    if torch.cuda.is_available():
        described["device"] = torch.cuda.get_device_name(0)
    return described


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
