"""What a W&B run holds already, so that the curves of an interrupted run have neither gaps nor overlaps.

A killed run has logged steps beyond its last checkpoint, which are taken again, and what it logged last may never have
reached the file. So nothing is assumed: what is there is read, what is there is not logged a second time (the same bits
come again), and lines of metrics.jsonl that are not there are logged first.

    offline    the files of the earlier parts of the run, through wandb's own reader
    online     the newest step that the server knows
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

STEP = "train/global_step"
_NOT_CURVES = ("_", STEP)


@dataclass
class LoggedCurves:
    """The curves that the W&B run holds, by global step.

    names: global step -> names of the curves logged at it. through: up to this step everything is there (-1: nothing;
    the probe logs at step 0 already). rows: W&B's own count of rows (`_step`), from which the next file has to count
    on: W&B begins anew in every offline file.
    """

    names: dict[int, set[str]] = field(default_factory=dict)
    through: int = -1
    rows: int = 0

    def take_missing(self, step: int, curves: dict[str, float]) -> dict[str, float]:
        """Those of the curves that are not there yet; from now on they are."""
        if step <= self.through:
            return {}
        there = self.names.setdefault(step, set())
        missing = {name: value for name, value in curves.items() if name not in there}
        there.update(missing)
        return missing


def read_offline(output_dir: Path, run_id: str) -> LoggedCurves:
    """What the offline files of this run id hold, those of killed processes included."""
    logged = LoggedCurves()
    for path in sorted(output_dir.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")):
        for row in _rows(path):
            logged.rows = max(logged.rows, int(row.get("_step", 0)) + 1)
            if STEP in row:
                logged.take_missing(int(row[STEP]), {name: 0.0 for name in row if not name.startswith(_NOT_CURVES)})
    return logged


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of one file; a file that was cut ends where it was cut."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        logger.warning("%s cannot be read to its end: some points of the curves may be logged twice", path.name)
    for line in found.stdout.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.get("type") == "history":
            yield record["history"]["item"]


def lines_of(metrics_file: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, logs) of metrics.jsonl, as they were handed to the callbacks."""
    if not metrics_file.is_file():
        return
    for line in metrics_file.read_text(encoding="utf-8").splitlines():
        logs = json.loads(line)
        yield logs.pop("step"), {name: float(value) for name, value in logs.items()}
