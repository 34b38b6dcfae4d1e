"""(f) From the command to the first step, and how long imports and --help take.

Every measurement is a process of its own, as a user starts it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from derta.benchmark.measure import Line, compared, now
from derta.config.shipped import command_of


def run(*command: str) -> float:
    """Seconds a Python command takes. Raises RuntimeError: it fails; with the end of what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    begin = now()
    result = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    took = now() - begin
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return took


def startup(size: str) -> list[Line]:
    rounds = 3 if size == "small" else 7
    commands = (("-c", "pass"), ("-c", "import derta"), (*command_of("train"), "--help"))
    taken = [[run(*command) for command in commands] for _ in range(rounds)]
    bare, imports, helps = map(statistics.median, zip(*taken, strict=True))
    lines = [
        Line("f", "import derta, beyond an empty Python", "s", imports - bare, goal=0.2),
        Line("f", "launch/train.py --help", "s", helps, goal=1.5),
    ]
    with tempfile.TemporaryDirectory() as folder:
        model, data = _prepare(Path(folder))
        mine, theirs = [], []
        for number in range(rounds):
            words = [
                "model=miniature", f"model.name_or_path={model}", f"data.path={data}", "trainer.max_steps=1",
                f"output_dir={folder}/ours{number}", "logging.wandb_mode=disabled",
            ]  # fmt: skip
            mine.append(run(*command_of("train"), *words))
            theirs.append(run("-m", "derta.benchmark.plain_sft", str(model), str(data), f"{folder}/trl{number}"))
        whole = compared("f", "command to one trained and saved step", "s", mine, theirs, peer_name="plain TRL script")
    more = statistics.median(a - b for a, b in zip(mine, theirs, strict=True))
    return [*lines, whole, Line("f", "the same, seconds beyond plain TRL", "s", more, goal=5.0)]


def _prepare(folder: Path) -> tuple[Path, Path]:
    """A small model and 128 rows, on disk."""
    from derta.benchmark.builder import write_recipe
    from derta.benchmark.workload import llama, miniature_rows, tokenizer
    from derta.data.build import build
    from derta.data.recipe import load_recipe

    model, data = folder / "model", folder / "data"
    llama(len(tokenizer())).save_pretrained(model)
    tokenizer().save_pretrained(model)
    build(load_recipe(str(write_recipe(folder, miniature_rows(128))), folder), data)
    return model, data
