"""Speed and memory against peers: python launch/benchmark.py [suite=all] [size=small] [clock=wall]

suite     all, or some of training, reference, memory, builder, generation, startup, checkpoints, scaling, prefixes,
          direction, separated by commas
size      small: some minutes on two cores; full: as long as it takes
clock     wall; or cpu: seconds of CPU, for a machine on which other jobs run
threads   of torch in this process (default 1; launch/train.py on CPU uses as many as OMP_NUM_THREADS says)
output    where benchmark.md and benchmark.json go
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

from derta.benchmark.measure import CLOCKS, machine, use_clock
from derta.benchmark.suites import SIZES, chosen, run_suites
from derta.errors import InputError

DEFAULTS = {"suite": "all", "size": "small", "clock": "wall", "threads": "1", "output": "runs/benchmark"}


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    given = {**DEFAULTS, **dict(argument.split("=", 1) for argument in arguments if "=" in argument)}
    fits = given["size"] in SIZES and given["clock"] in CLOCKS and given["threads"].isdigit()
    if given.keys() - DEFAULTS.keys() or not fits:
        raise InputError(f"expected {', '.join(f'{k}={v}' for k, v in DEFAULTS.items())}; got {' '.join(arguments)}")
    names = chosen(given["suite"])
    os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    import torch
    import transformers
    from datasets.utils.logging import disable_progress_bar

    from derta.benchmark.report import as_markdown, write

    use_clock(given["clock"])
    torch.set_num_threads(int(given["threads"]))
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bar()
    described = machine()
    lines = run_suites(names, given["size"], say=lambda text: print(text, file=sys.stderr, flush=True))
    command = " ".join(["python launch/benchmark.py", *arguments])
    write(lines, described, command, Path(given["output"]))
    print(as_markdown(lines, described, command))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
