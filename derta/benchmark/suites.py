"""The suites by letter and name, what `launch/benchmark.py` is asked, how they are run, and the table: Markdown for
people, JSON with every sample for machines."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MinLen, Predicate

from derta.benchmark.measure import Line, machine, use_clock
from derta.config.settings import Count, Settings, Text
from derta.statistics.table import markdown

SUITES = {  # name: the functions that make its lines, as module.function
    "training": ("training.training",),  # (a)
    "reference": ("reference.reference",),  # (b)
    "memory": ("head_memory.head_memory",),  # (c)
    "builder": ("builder.builder",),  # (d)
    "generation": ("generation.generation",),  # (e)
    "startup": ("startup.startup",),  # (f)
    "checkpoints": ("throughput.checkpoints",),  # (g)
    "scaling": ("startup.scaling", "throughput.throughput"),  # (h)
    "direction": ("direction.direction",),  # (i)
}


@dataclass(kw_only=True, slots=True)
class BenchmarkRunConfig(Settings):
    """What `launch/benchmark.py` runs."""

    suite: Annotated[
        list[Annotated[str, Predicate(lambda name: name in ("all", *SUITES))]],
        MinLen(1),
        f"[all], or some of [{','.join(SUITES)}]",
    ] = field(default_factory=lambda: ["all"])
    """What is measured."""
    size: Literal["small", "full"] = "small"
    """small: some minutes on two cores; full: as long as it takes."""
    clock: Literal["wall", "cpu"] = "wall"
    """Time on the wall; or cpu: seconds of CPU, for a machine on which other jobs run."""
    threads: Count = 1
    """Of torch in this process; launch/train.py on CPU uses as many as OMP_NUM_THREADS says."""
    output: Annotated[Text, "a directory"] = "runs/benchmark"
    """Where benchmark.md and benchmark.json go."""

    @property
    def suites(self) -> list[str]:
        return list(SUITES) if "all" in self.suite else self.suite


def run_benchmark(config: BenchmarkRunConfig) -> str:
    """Measure, leave table and samples in config.output, and return the table."""
    os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    import torch
    import transformers
    from datasets.utils.logging import disable_progress_bar

    use_clock(config.clock)
    torch.set_num_threads(config.threads)
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bar()
    described, command = machine(), shlex.join(["python", "launch/benchmark.py", *sys.argv[1:]])
    lines: list[Line] = []
    for name in config.suites:
        begin = time.perf_counter()
        for place in SUITES[name]:
            module, function = place.split(".")
            found = getattr(importlib.import_module(f"derta.benchmark.{module}"), function)(config.size)
            lines += found
            print(as_table(found), file=sys.stderr, flush=True)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    return write(lines, described, command, Path(config.output))


def as_table(lines: Sequence[Line]) -> str:
    """A Markdown table, a line per measurement."""
    rows = [["", "what", "ours", "peer", "ratio", "goal", "met?"]]
    for line in lines:
        goal = "" if line.goal is None else f"{'>=' if line.at_least else '<='} {line.goal:g}"
        verdict = {None: "", True: "met", False: "missed"}[line.met]
        peer = "" if line.peer is None else f"{_number(line.peer)} ({line.peer_name})"
        what = f"{line.what} ({line.note})" if line.note else line.what
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
        rows.append([line.suite, what, f"{_number(line.ours)} {line.unit}", peer, ratio, goal, verdict])
    return markdown(rows, left=2)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(lines: Sequence[Line], machine: dict[str, Any], command: str, output: Path) -> str:
    """benchmark.json and benchmark.md in `output`; returns the latter."""
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    text = f"`{command}`\n\n{facts}\n\n{as_table(lines)}\n"
    output.mkdir(parents=True, exist_ok=True)
    content = {"command": command, "machine": machine, "lines": [{**asdict(line), "met": line.met} for line in lines]}
    (output / "benchmark.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (output / "benchmark.md").write_text(text, encoding="utf-8")
    return text
