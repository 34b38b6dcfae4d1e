"""What the tests of whole training runs share: rows, settings, and readers of what a run leaves."""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = REPOSITORY / "launch" / "train.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
for _name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR", "HYDRA_FULL_ERROR"):
    ENVIRONMENT.pop(_name, None)

TEXT_WORDS = ("zorblat", "quixlet", "vexmorn", "brimtale", "oakwhistle")
"""Words that only the rows hold: wherever one of them turns up, text of the data has leaked."""

QUICK = (
    "trainer.max_steps=3",
    "trainer.logging_steps=1",
    "trainer.global_batch_size=4",
    "trainer.micro_batch_size=4",
    "data.max_length=200",
)
# A constant learning rate: with one that ends at 0, a step too many would not show in the weights.
STEPS = ("trainer.max_steps=6", "trainer.save_steps=2", "trainer.save_total_limit=null", "optim.scheduler=constant")
# Where few tests go: the others are of float32 on one rank, plain data parallelism, ZeRO-2 and ZeRO-3.
ELSEWHERE = {
    "bf16, ZeRO-1": ("distributed=zero1", "model.dtype=bfloat16"),
    "bf16, data parallel": ("distributed=none", "model.dtype=bfloat16"),
    "bf16, ZeRO-3, offload": ("distributed=zero3_offload", "model.dtype=bfloat16"),
    "bf16, FSDP2": ("distributed=fsdp2", "model.dtype=bfloat16"),
    "dpo, ZeRO-2": ("distributed=zero2", "objective=dpo"),
}
CLOCKS = ("tokens_per_second", "supervised_tokens_per_second")


def triple(i: int) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": f"zorblat request {i}"}],
        "chosen": [{"role": "assistant", "content": f"Sorry, I cannot help with quixlet {i}."}],
        "rejected": [
            {"role": "assistant", "content": f"Sure, vexmorn steps. Step {i}: stir." + " Step: mix." * (i % 3)}
        ],
    }


def helpful(i: int) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": f"brimtale question {i}"}],
        "chosen": [{"role": "assistant", "content": f"oakwhistle answer {i}." + " Step: wait." * (i % 4)}],
        "rejected": None,
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below, by its relative path."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def size_of(*places: Path) -> int:
    """Of files and of all below directories, as a tmpfs counts: whole pages."""
    files = [path for place in places for path in (place, *place.rglob("*")) if path.is_file()]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def same_weights(one: Path, other: Path) -> bool:
    """To the last bit, of models or of adapters."""
    ours, theirs = (load_file(next(run.glob("*model.safetensors"))) for run in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def curves(run: Path) -> list[dict[str, Any]]:
    """The lines of all steps, without what depends on the clock."""
    lines = [line for line in metrics(run) if "loss" in line]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def interrupted_copy(whole: Path, target: Path, last_step: int) -> Path:
    """The directory as it was when checkpoint `last_step` had just been completed."""
    shutil.copytree(whole, target)
    for path in target.iterdir():
        number = path.name.removeprefix("checkpoint-")
        if number.isdigit() and int(number) > last_step:
            shutil.rmtree(path)
        elif path.is_file() and path.name not in ("config.yaml", "metrics.jsonl", "wandb_run.json"):
            path.unlink()
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (target / "metrics.jsonl").write_text("".join(lines[: last_step + 1]))  # a step further than the checkpoint
    return target


def same_runs(run: Path, whole: Path) -> bool:
    """Weights to the last bit, and curves."""
    return same_weights(run, whole) and curves(run) == curves(whole)


def wait_until(come: Callable[[], object], alive: Callable[[], bool] = lambda: True, log: Path | None = None) -> None:
    """Fails with the end of the log where it does not come, or cannot any more."""
    deadline = time.monotonic() + 200
    while not come():
        assert alive() and time.monotonic() < deadline, log and log.read_text(errors="replace")[-3000:]
        time.sleep(0.002)


def logged(run: Path, count: int) -> Callable[[], bool]:
    """Whether that many lines of metrics are there."""
    lines = run / "metrics.jsonl"
    return lambda: lines.is_file() and lines.read_bytes().count(b"\n") >= count


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def partial(run: Path) -> list[Path]:
    """Checkpoints that have begun and have no record yet."""
    return [path for path in run.glob("checkpoint-*") if not (path / "complete.json").exists()]


def says_text(message: str | bytes) -> list[str]:
    """The words of the rows that a message or file holds."""
    data = message if isinstance(message, bytes) else message.encode()
    return [word for word in TEXT_WORDS if word.encode() in data]
