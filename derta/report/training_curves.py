"""How the evaluated models were trained: curves from metrics.jsonl and settings from config.yaml, where they are found.

The model's directory is the one that the evaluation read (its evaluation.json keeps the whole path, which the page
never shows); a checkpoint's run is the directory above. Models from elsewhere simply have no curves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt

from derta.charts import Figure, compared_colours, compared_dashes, filtered, line_legend, reading, table
from derta.errors import InputError
from derta.evaluation.results import ResultsFolder
from derta.report.runs import Run
from derta.storage.json_lines import read_lines
from derta.storage.read_files import sha256_of
from derta.storage.read_yaml import read_yaml

METRICS_FILE, CONFIG_FILE = "metrics.jsonl", "config.yaml"
CURVES = ("loss", "mle_loss", "rto_loss", "refusal_prob")
"""Shown first and in this order; every `probe/*` that is a measurement follows."""
_NO_CURVES = ("probe/rows_", "probe/positions_", "probe/seconds", "probe/share_of_time")
Curves = Mapping[str, Sequence[tuple[int, float | None]]]
"""Name -> (step, value) pairs, value None where it was not finite."""
POINTS = 300
"""Longer curves are thinned evenly to about so many points."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """settings: what config.yaml says. hashes: sha256 of the files they come from."""

    curves: Curves
    settings: dict[str, Any]
    hashes: dict[str, str]


def training_run(run: Run) -> TrainingRun | None:
    """The training run of the evaluated model; None where its metrics.jsonl is not here."""
    model = ResultsFolder(run.folder).model_directory or Path(run.summary.run.model)
    candidates = (model, model.parent) if model.name.startswith("checkpoint-") else (model,)
    for folder in candidates:
        if (folder / METRICS_FILE).is_file():
            files = [folder / name for name in (METRICS_FILE, CONFIG_FILE) if (folder / name).is_file()]
            hashes = {file.name: sha256_of(file) for file in files}
            return TrainingRun(_curves(folder / METRICS_FILE), _settings(folder / CONFIG_FILE), hashes)
    return None


def _curves(file: Path) -> Curves:
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
        config = read_yaml(file)
        parts = {name: config.get(name) or {} for name in ("objective", "trainer", "optim", "data", "run")}
    except (InputError, AttributeError):
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


def training_figures(trained: Mapping[str, Sequence[TrainingRun]]) -> dict[str, Figure]:
    """`training`: a panel per metric, a line per run; `training-depth`: the same of the probe's metrics at single
    depths. Without those that no run has. trained: label -> its runs, in the order of the report."""
    runs = [(label, run.curves) for label, members in trained.items() for run in members]
    names = list(dict.fromkeys(name for _, curves in runs for name in curves))
    ends = {f"{name}_{end}" for name in names for end in ("low", "high")}
    found = {name: _rows(name, runs) for name in names if name not in ends}
    figures = {}
    for key, title in (("training", "Training"), ("training-depth", "The probe by depth (response tokens given)")):
        shown = {name: rows for name, rows in found.items() if rows and ("@" in name) == (key == "training-depth")}
        if shown:
            panels = [_panel(number, name, rows, list(trained)) for number, (name, rows) in enumerate(shown.items())]
            rows = {f"metric {number}": rows for number, rows in enumerate(shown.values())}
            figures[key] = Figure(alt.concat(*panels), title, rows, count=len(panels), width=220)
    return figures


def _rows(name: str, runs: Sequence[tuple[str, Curves]]) -> list[dict[str, Any]]:
    """A row per run that has a finite value: its steps and values, and the ends of its interval where it has one."""
    rows = []
    for number, (label, curves) in enumerate(runs):
        points = dict(curves.get(name, ()))
        if any(value is not None for value in points.values()):
            ends = {end: dict(curves.get(f"{name}_{end}", ())) for end in ("low", "high")}
            band = {end: [found.get(step) for step in points] for end, found in ends.items()}
            row = {"checkpoint": label, "run": number, "step": list(points), "value": list(points.values())}
            rows.append(row | band)
    return rows


def _panel(number: int, name: str, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Any:
    """One metric; a loss that spans decades on a log scale."""
    values = [value for row in rows for value in row["value"] if value is not None]
    log = "loss" in name and min(values) > 0 and max(values) / min(values) > 20
    scale = alt.Scale(type="log") if log else alt.Scale(zero=True)
    axis = alt.Axis(tickCount=4, format="~g") if log else alt.Axis(tickCount=4)
    line = "datum.checkpoint + ': ' + format(datum.value, '.4~g')"
    flat = table(f"metric {number}").transform_flatten(["step", "value", "low", "high"])
    base = flat.encode(
        x=alt.X("step:Q", title="step", axis=alt.Axis(tickCount=4)),
        color=compared_colours("checkpoint", labels, line_legend()),
        detail="run:N",
    )
    layers = alt.layer(
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_area(opacity=0.16)
        .encode(y="low:Q", y2="high"),
        base.mark_line(point=len(values) < 5).encode(
            y=alt.Y("value:Q", title=None, scale=scale, axis=axis),
            strokeDash=compared_dashes("checkpoint", labels, line_legend()),
        ),
        reading(flat.transform_filter("isValid(datum.value)"), "step", line, title="step ", name=f"near_{number}"),
        title=f"{name} (log scale)" if log else name,
    )
    return filtered(layers.properties(height=160), checkpoints=labels)
