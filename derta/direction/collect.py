"""Many diagnostics side by side: a table and a figure, made of direction.json files alone.

One result per label is shown with its own 95% interval. Several (seeds of one arm): mean +- standard deviation and, in
brackets, a 95% interval over seeds and prompts; runs without a value are left out and counted. Differences between arms
are paired by run and prompt (derta/direction/paired.py).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from derta.charts import write_png
from derta.direction.figures import before_and_after
from derta.direction.paired import Cells, Evaluated, OverRuns, Paired, Report, difference, over_runs, readers
from derta.errors import InputError
from derta.evaluation.records import LABEL_ORDER
from derta.evaluation.results import ResultsFolder
from derta.evaluation.summary import Summary, read_summary
from derta.statistics.table import Measure, markdown, tabulate
from derta.storage.atomic import write_atomically, write_errors_named, write_json_atomically

_COMPARED = ("ablation robustness", "attack success, direction ablated", "evaluation: ")
# A base model that refuses nothing can only be looked at without the filter; suffixes are found on one model.
_MAY_DIFFER = ("filter_prompts", "suffix")


def load_reports(folders: Sequence[str | Path]) -> dict[str, list[Report]]:
    """direction.json of every folder by label, known arms first.

    Raises:
        InputError: folders without one, or results made with different settings; all are listed.
    """
    reports, problems = [], []
    for folder in map(Path, folders):
        try:
            reports.append((folder, json.loads((folder / "direction.json").read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            problems.append(f"{folder}: no direction.json; run launch/diagnose_direction.py to the end first")
    for folder, report in reports:
        if "by_id" not in report["before"].get("harmful", {"by_id": {}}):
            problems.append(
                f"{folder}: made by an earlier version, without outcomes by prompt; remove it and run again"
            )
    for folder, report in reports[1:]:
        if differing := sorted(_differing(report["identity"], reports[0][1]["identity"])):
            problems.append(f"{folder}: other {', '.join(differing)} than {reports[0][0]}; run both alike")
    if problems:
        raise InputError.listing("these diagnostics cannot go into one table:", problems)
    place = {name: number for number, name in enumerate(LABEL_ORDER)}
    labels = sorted({report["label"] for _, report in reports}, key=lambda name: (place.get(name, len(place)), name))
    return {label: [report for _, report in reports if report["label"] == label] for label in labels}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """Judge, prompts and settings that are not the same in two identities."""
    found = {key for key in ("judge", "prompts") if one[key] != other[key]}
    names = {*one["settings"], *other["settings"]} - set(_MAY_DIFFER)
    return found | {name for name in names if one["settings"].get(name) != other["settings"].get(name)}


def with_evaluations(groups: Mapping[str, Sequence[Report]], folders: Sequence[str | Path]) -> dict[str, list[Report]]:
    """The reports with the finished evaluation of the same model in each that has one.

    Raises:
        InputError: folders without a finished evaluation; one of a model that none of the diagnostics is of; two of one
            model; different judges.
    """
    by_model: dict[str, tuple[Path, Summary]] = {}
    for folder in map(Path, folders):
        summary = read_summary(folder)
        first, _ = by_model.setdefault(summary.identity.model.sha256, (folder, summary))
        if first != folder:
            raise InputError(f"{first} and {folder} are evaluations of the same model: name one of them")
    judges = sorted({summary.identity.judge for _, summary in by_model.values()})
    if len(judges) > 1:
        raise InputError(f"these evaluations have different judges ({', '.join(judges)}): give those of one judge")
    found: dict[str, list[Report]] = {}
    for label, reports in groups.items():
        found[label] = []
        for report in reports:
            if evaluated := by_model.pop(report["identity"]["model"]["sha256"], None):
                results = list(ResultsFolder(evaluated[0]).read().values())
                report = {**report, "evaluation": Evaluated(evaluated[1], results)}
            found[label].append(report)
    if by_model:
        names = ", ".join(str(folder) for folder, _ in by_model.values())
        raise InputError(f"these evaluations are of models that none of the diagnostics is of: {names}")
    return found


@dataclass(frozen=True)
class Study:
    """rows: name -> label -> number over its runs; rows that no run has are left out. differences: name -> "A - B" ->
    number over pairs of runs, for the rows in which arms are compared. valid_directions, runs: how many, per label."""

    rows: dict[str, dict[str, OverRuns]]
    differences: dict[str, dict[str, Paired]]
    valid_directions: dict[str, int]
    runs: dict[str, int]


def study_numbers(groups: Mapping[str, Sequence[Report]]) -> Study:
    """All numbers of these diagnostics, by label."""
    wanted = readers([report for reports in groups.values() for report in reports])
    cells: dict[Measure[Report, Cells], dict[str, list[Cells | None]]] = tabulate(
        groups, [Measure(name, read) for name, read in wanted.items()], list
    )
    pairs = [  # of other numbers of runs nobody knows which belongs to which
        (one, other) for other, one in itertools.combinations(groups, 2) if len(groups[one]) == len(groups[other])
    ]
    rows = {row.name: {label: over_runs(runs) for label, runs in found.items()} for row, found in cells.items()}
    differences = {
        row.name: {f"{one} - {other}": difference(found[one], found[other]) for one, other in pairs}
        for row, found in cells.items()
        if row.name.startswith(_COMPARED)
    }
    valid = {label: sum(r["selection"]["position"] is not None for r in reports) for label, reports in groups.items()}
    return Study(
        {name: found for name, found in rows.items() if any(number.runs for number in found.values())},
        {name: {pair: n for pair, n in found.items() if n.runs} for name, found in differences.items()},
        valid,
        {label: len(reports) for label, reports in groups.items()},
    )


def collect(folders: Sequence[str | Path], output: str | Path, evaluations: Sequence[str | Path] = ()) -> str:
    """Write direction_table.md, direction_table.json and ablation.png; return the table.

    Args:
        evaluations: folders of finished evaluations of these models, for their attack success, over-refusal and
            helpfulness.

    Raises:
        InputError: see `load_reports` and `with_evaluations`.
    """
    groups, output = with_evaluations(load_reports(folders), evaluations), Path(output)
    study = study_numbers(groups)
    table = render(groups, study)
    with write_errors_named(str(output)):
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / "direction_table.md", table)
        write_json_atomically(output / "direction_table.json", asdict(study))
        write_png(before_and_after(groups), output / "ablation.png")
    return table


def render(groups: Mapping[str, Sequence[Report]], study: Study) -> str:
    """The table as Markdown, in per cent, and what it was made with."""
    valid = (f"{found} of {study.runs[label]}" for label, found in study.valid_directions.items())
    lines = [["%", *(f"{label} ({count})" for label, count in study.runs.items())]]
    lines.append(["runs with a valid direction", *valid])
    lines += [[name, *map(str, cells.values())] for name, cells in study.rows.items()]
    prompts = next(iter(groups.values()))[0]["prompts"]
    notes = [
        "",
        f"Test prompts per run: {prompts['harmful']['test']} harmful, {prompts['harmless']['test']} harmless. One run: "
        "95% interval of its rate. Several: mean ± standard deviation [95% interval over runs and prompts]. No valid "
        "direction is not evidence of robustness; such runs have no score.",
        "",
        *(_differences(study.differences) if max(study.runs.values()) > 1 else ()),
        *(f"- {report['label']}: `{report['run']['command']}`" for group in groups.values() for report in group[:1]),
        "",
    ]
    return "\n".join([markdown(lines), *notes])


def _differences(found: Mapping[str, Mapping[str, Paired]]) -> list[str]:
    """Paired differences in percentage points, one table."""
    pairs = list(dict.fromkeys(pair for cells in found.values() for pair in cells))
    if not pairs:
        return []
    names = [name for name, cells in found.items() if cells]
    lines = [[pair, *(str(found[name].get(pair, Paired())) for name in names)] for pair in pairs]
    note = (
        "Paired by run and prompt; 95% intervals over runs and prompts, not corrected for their number. *: the "
        "interval leaves 0 out. In brackets: pairs of runs in which both have a value. The k-th run of a label belongs "
        "to the k-th of the other; labels with other numbers of runs are not compared."
    )
    return [markdown([["difference, percentage points", *names], *lines]), "", note, ""]
