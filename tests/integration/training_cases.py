"""What the tests of whole training runs share: rows, settings, and readers of what a run leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = REPOSITORY / "launch" / "train.py"
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


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def partial(run: Path) -> list[Path]:
    """Checkpoints that have begun and have no record yet."""
    return [path for path in run.glob("checkpoint-*") if not (path / "complete.json").exists()]


def says_text(message: str | bytes) -> list[str]:
    """The words of the rows that a message or file holds."""
    data = message if isinstance(message, bytes) else message.encode()
    return [word for word in TEXT_WORDS if word.encode() in data]
