"""The suites by letter and name, and how they are run."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence

from derta.benchmark.measure import Line
from derta.benchmark.report import as_table
from derta.errors import InputError

SUITES = {  # name: the functions that make its lines, as module.function
    "training": ("training.training",),  # (a)
    "reference": ("reference.reference",),  # (b)
    "memory": ("head_memory.head_memory",),  # (c)
    "builder": ("builder.builder",),  # (d)
    "generation": ("generation.generation",),  # (e)
    "startup": ("startup.startup",),  # (f)
    "checkpoints": ("throughput.checkpoints",),  # (g)
    "scaling": ("startup.scaling", "throughput.throughput"),  # (h)
    "prefixes": ("prefixes.prefixes",),
    "direction": ("direction.direction",),  # (i)
}
SIZES = ("small", "full")


def chosen(names: str) -> list[str]:
    """Suites of a comma-separated list; `all` is all of them.

    Raises:
        InputError: there is no such suite.
    """
    wanted = list(SUITES) if names == "all" else names.split(",")
    if unknown := [name for name in wanted if name not in SUITES]:
        raise InputError(f"suite={names}: unknown {', '.join(unknown)}; choose all or some of {', '.join(SUITES)}")
    return wanted


def run_suites(names: Sequence[str], size: str, say: Callable[[str], None]) -> list[Line]:
    lines: list[Line] = []
    for name in names:
        begin = time.perf_counter()
        for place in SUITES[name]:
            module, function = place.split(".")
            found = getattr(importlib.import_module(f"derta.benchmark.{module}"), function)(size)
            lines += found
            say(as_table(found))
        say(f"{name}: {time.perf_counter() - begin:.0f} s")
    return lines
