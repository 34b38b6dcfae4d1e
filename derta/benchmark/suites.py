"""The suites by letter and name, what `launch/benchmark.py` is asked, how they are run, and the table: Markdown for
people, JSON with every sample for machines."""

import importlib
import json
import logging
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MinLen, Predicate

from derta.benchmark.measure import Line, machine, use_clock
from derta.config.settings import Count, Name, Settings, Text
from derta.statistics.table import markdown

SUITES = {  # name: the function that makes its lines, as module.function
    "training": "cases.training",  # (a)
    "memory": "head_memory.head_memory",  # (c)
    "builder": "builder.builder",  # (d)
    "startup": "startup.startup",  # (f)
    "checkpoints": "checkpoints.checkpoints",  # (g)
    "direction": "direction.direction",  # (i)
    "gpu": "cases.gpu",  # (j)
}


@dataclass(kw_only=True, slots=True)
class BenchmarkRunConfig(Settings):
    """What `launch/benchmark.py` runs."""

    suite: Annotated[
        list[Annotated[str, Predicate(lambda name: name in ("all", *SUITES))]],
        MinLen(1),
        f"[all], or some of [{','.join(SUITES)}]",
    ] = field(default_factory=lambda: ["all"])
    """What is measured; all is all but gpu."""
    size: Literal["tiny", "small", "full"] = "small"
    """small: some minutes on two cores, or six on a GPU; full: as long as it takes; tiny: of suite=[gpu], on any
    machine, to see that it runs."""
    model: Annotated[Text, "a model directory"] | None = None
    """Of suite=[training]: a model that is trained in place of the small ones."""
    kernels: bool = False
    """Of a model directory and suite=[gpu]: a table of kernels for each case, beside the result."""
    clock: Literal["wall", "cpu"] = "wall"
    """Time on the wall; or cpu: seconds of CPU, for a machine on which other jobs run."""
    threads: Count = 1
    """Of torch in this process; launch/train.py on CPU uses as many as OMP_NUM_THREADS says."""
    output: Annotated[Text, "a directory"] = "runs/benchmark"
    """Where benchmark.md and benchmark.json go."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if self.size == "tiny" and self.suites != ["gpu"]:
            yield f"{key('size')}=tiny is for {key('suite')}=[gpu]: use small"
        if self.model is not None and self.suites != ["training"]:
            yield f"{key('model')}={self.model} is for {key('suite')}=[training]: leave it out, or name this suite"

    @property
    def suites(self) -> list[str]:
        return [name for name in SUITES if name != "gpu"] if "all" in self.suite else self.suite


def be_quiet(threads: int) -> None:
    """Of this process: threads of torch, and nothing said but results."""
    os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    import torch
    import transformers
    from datasets.utils.logging import disable_progress_bar

    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bar()


def run_benchmark(config: BenchmarkRunConfig) -> str:
    """Measure, leave table and samples in config.output, and return the table. Every line is said and written as soon
    as it is known."""
    be_quiet(config.threads)
    use_clock(config.clock)
    described, command = machine(), shlex.join(["python", "launch/benchmark.py", *sys.argv[1:]])
    lines: list[Line] = []
    for name in config.suites:
        begin = time.perf_counter()
        module, function = SUITES[name].split(".")
        measure = getattr(importlib.import_module(f"derta.benchmark.{module}"), function)
        for line in measure(config if module == "cases" else config.size):
            lines.append(line)
            print(as_table([line]).splitlines()[-1], file=sys.stderr, flush=True)
            write(lines, described, command, Path(config.output))
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
