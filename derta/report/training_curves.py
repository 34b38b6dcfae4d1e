"""How the evaluated models were trained: curves from metrics.jsonl and settings from config.yaml, where they are found.

The model's directory is looked for as the evaluation names it (relative to the working directory); a checkpoint's run
is the directory above. Models from elsewhere simply have no curves.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from derta.report.runs import Run
from derta.storage.json_lines import read_lines

METRICS_FILE, CONFIG_FILE = "metrics.jsonl", "config.yaml"
CURVES = ("loss", "mle_loss", "rto_loss", "refusal_prob")
"""Shown first and in this order; every `probe/*` that is a measurement follows."""
_NO_CURVES = ("probe/rows_", "probe/positions_", "probe/seconds", "probe/share_of_time")
POINTS = 300
"""Longer curves are thinned evenly to about so many points."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """curves: name -> [step, value] pairs, value null where it was not finite. settings: what config.yaml says.
    hashes: sha256 of the files they come from."""

    curves: dict[str, list[tuple[int, float | None]]]
    settings: dict[str, Any]
    hashes: dict[str, str]


def training_run(run: Run) -> TrainingRun | None:
    """The training run of the evaluated model; None where its metrics.jsonl is not here."""
    model = Path(run.summary.run.model)
    candidates = (model, model.parent) if model.name.startswith("checkpoint-") else (model,)
    for folder in candidates:
        if (folder / METRICS_FILE).is_file():
            files = [folder / name for name in (METRICS_FILE, CONFIG_FILE) if (folder / name).is_file()]
            hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
            return TrainingRun(_curves(folder / METRICS_FILE), _settings(folder / CONFIG_FILE), hashes)
    return None


def _curves(file: Path) -> dict[str, list[tuple[int, float | None]]]:
    found: dict[str, list[tuple[int, float | None]]] = {}
    for line in read_lines(file):
        if not isinstance(step := line.get("step"), int):
            continue
        for name, value in line.items():
            if name in CURVES or (name.startswith("probe/") and not name.startswith(_NO_CURVES)):
                found.setdefault(name, []).append((step, _finite(value)))
    names = [*(name for name in CURVES if name in found), *(name for name in found if name not in CURVES)]
    return {name: _thinned(found[name]) for name in names}


def _finite(value: Any) -> float | None:
    """metrics.jsonl writes NaN and infinity as text."""
    number = float(value) if isinstance(value, (int, float)) else math.nan
    return number if math.isfinite(number) else None


def _thinned(points: list[tuple[int, float | None]]) -> list[tuple[int, float | None]]:
    stride = -(-len(points) // POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def _settings(file: Path) -> dict[str, Any]:
    """The few that tell arms apart, and the hashes of what went in."""
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        parts = {name: config.get(name) or {} for name in ("objective", "trainer", "optim", "data", "run")}
    except (OSError, yaml.YAMLError, AttributeError):
        return {}
    wanted = {
        "objective": parts["objective"].get("name"),
        "seed": parts["trainer"].get("seed"),
        "epochs": parts["trainer"].get("epochs"),
        "learning rate": parts["optim"].get("learning_rate"),
        "data": parts["data"].get("path"),
        "data sha256": parts["run"].get("data_sha256"),
        "starting model sha256": parts["run"].get("model_sha256"),
    }
    return {name: value for name, value in wanted.items() if value is not None}
