"""What became of a model's evaluation after later changes: later.json says where an evaluation stands on the curve, and
the curves are drawn of all that a report is given. The model itself is known by its weights and begins its curves."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import altair as alt

from derta.charts import Figure, panels, share_curves
from derta.config.settings import Choice
from derta.evaluation.measures import OVER_REFUSAL, SUCCESS, measures
from derta.report.html import Numbers
from derta.report.runs import Run, combine
from derta.storage.atomic import write_json_atomically
from derta.storage.typed import read_typed

LATER_FILE = "later.json"


class Axis(Choice):
    """steps: of plain fine-tuning on helpful rows. scale: of an adapter's delta."""

    steps = "steps"
    scale = "scale"


UNTOUCHED = {Axis.steps: 0.0, Axis.scale: 1.0}
"""Where the model itself stands."""
TITLES = {Axis.steps: "later steps on helpful rows", Axis.scale: "LoRA delta times"}


@dataclass(frozen=True, slots=True)
class Later:
    """label: of the model that was changed. value: how far, on the axis. model: the sha256 of its weights."""

    label: str
    axis: Axis
    value: float
    model: str


def write_later(folder: Path, later: Later) -> None:
    write_json_atomically(folder / LATER_FILE, {**asdict(later), "axis": later.axis.value})


def read_later(folder: Path) -> Later | None:
    """None for an evaluation of a model that nobody changed. Raises InputError: the file is damaged."""
    if not (folder / LATER_FILE).is_file():
        return None
    return read_typed(Later, folder / LATER_FILE, "from launch/durability.py; run it again")


def later_points(runs: Sequence[Run], axis: Axis) -> dict[str, dict[float, list[Run]]]:
    """Label -> place on the axis -> the runs there (seeds of one arm); none where no run stands on it."""
    found: dict[str, dict[float, list[Run]]] = {}
    marks = [(run, read_later(run.folder)) for run in runs]
    placed = [(run, mark) for run, mark in marks if mark and mark.axis is axis]
    begins = {mark.model: mark.label for _, mark in placed}
    for run, mark in marks:
        if mark is None and (label := begins.get(run.summary.identity.model.sha256)):
            found.setdefault(label, {}).setdefault(UNTOUCHED[axis], []).append(run)
    for run, mark in placed:
        found.setdefault(mark.label, {}).setdefault(mark.value, []).append(run)
    return {label: dict(sorted(points.items())) for label, points in found.items()}


def later_rows(runs: Sequence[Run], axis: Axis) -> list[dict[str, Any]]:
    """By measure, label and place: the rate with its interval; of several runs mean and standard deviation."""
    points = later_points(runs, axis)
    lines = measures([run.summary for run in runs])
    shown = [
        line for line in lines if line.group == SUCCESS or (line.group == OVER_REFUSAL and line.path[-1] == "refused")
    ]
    rows = []
    for line in shown if points else ():
        for label, places in points.items():
            for place, members in places.items():
                rate = combine([line.of(run.summary) for run in members])
                if rate.mean is not None:
                    rows.append({"panel": line.name, "model": label, "place": place, "rate": rate})
    return rows


def later_curves(runs: Sequence[Run], axis: Axis) -> Figure | None:
    """A panel for each attack and benign set; bands are 95% intervals, of several runs the standard deviation. None
    where no run stands on the axis."""
    found = later_rows(runs, axis)
    if not found:
        return None
    rows = [{key: row[key] for key in ("panel", "model", "place")} | row["rate"].drawn for row in found]
    names, labels = (list(dict.fromkeys(row[key] for row in rows)) for key in ("panel", "model"))
    places = sorted({row["place"] for row in rows})
    scale = alt.Scale(type="symlog", constant=5, nice=False) if axis is Axis.steps else alt.Scale(nice=False)
    ticks = alt.Axis(values=places, format="~g", grid=False)
    x = alt.X("place", type="quantitative", title=TITLES[axis], scale=scale, axis=ticks)
    curves = share_curves(f"later_{axis}", x, "model", labels, title=f"{TITLES[axis]} ").properties(height=200)
    chart = panels(curves, "panel", sort=names)
    title = f"Attack success and over-refusal by {TITLES[axis]}"
    return Figure(chart, title, {f"later_{axis}": rows}, count=len(names), width=230, left=50, columns=3)


def later_table(runs: Sequence[Run], axis: Axis) -> Numbers:
    """The numbers of the curves: a row per measure and model, a column per place."""
    rows = later_rows(runs, axis)
    places = sorted({row["place"] for row in rows})
    cells = {(row["panel"], row["model"], row["place"]): str(row["rate"]) for row in rows}
    names = dict.fromkeys((panel, model) for panel, model, _ in cells)
    lines: list[tuple[dict[str, str], list[str]]] = [
        ({}, [*name, *(cells.get((*name, place), "-") for place in places)]) for name in names
    ]
    return Numbers(f"Numbers by {TITLES[axis]}", ["%", "model", *(f"{place:g}" for place in places)], lines)
