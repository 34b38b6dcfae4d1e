"""Many diagnostics side by side: a table and a figure, made of direction.json files alone.

One result per label is shown with its own 95% interval. Several (seeds of one arm): mean +- standard deviation and, in
brackets, a 95% interval over seeds and prompts; runs without a value are left out and counted. Differences between arms
are paired by run and prompt (derta/direction/paired.py).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derta.direction.figures import BLUE, GREY, VERMILION, new_figure, tidy
from derta.direction.paired import READERS, Report, difference, evaluation_readers, over_runs
from derta.errors import InputError
from derta.evaluation.gate import read_summary
from derta.evaluation.records import LABEL_ORDER
from derta.evaluation.results import ResultsFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    by_model: dict[str, tuple[Path, Any]] = {}
    for folder in map(Path, folders):
        summary = read_summary(str(folder))
        first, _ = by_model.setdefault(summary["identity"]["model"]["sha256"], (folder, summary))
        if first != folder:
            raise InputError(f"{first} and {folder} are evaluations of the same model: name one of them")
    judges = sorted({str(summary["identity"]["judge"]) for _, summary in by_model.values()})
    if len(judges) > 1:
        raise InputError(f"these evaluations have different judges ({', '.join(judges)}): give those of one judge")
    found: dict[str, list[Report]] = {}
    for label, reports in groups.items():
        found[label] = []
        for report in reports:
            if evaluated := by_model.pop(report["identity"]["model"]["sha256"], None):
                results = list(ResultsFolder(evaluated[0]).read().values())
                report = {**report, "evaluation": {"summary": evaluated[1], "results": results}}
            found[label].append(report)
    if by_model:
        names = ", ".join(str(folder) for folder, _ in by_model.values())
        raise InputError(f"these evaluations are of models that none of the diagnostics is of: {names}")
    return found


def study_numbers(groups: Mapping[str, Sequence[Report]]) -> dict[str, Any]:
    """`rows`: name -> label -> numbers over its runs. `differences`: name -> "A - B" -> numbers over pairs of runs, for
    the rows in which arms are compared. `valid_directions` and `runs`: how many, per label."""
    readers = READERS | evaluation_readers([report for reports in groups.values() for report in reports])
    compared = [name for name in readers if name.startswith(_COMPARED)]
    return {
        "rows": {
            name: {label: over_runs(reports, read) for label, reports in groups.items()}
            for name, read in readers.items()
        },
        "differences": {
            name: {
                f"{one} - {other}": found
                for other, one in itertools.combinations(groups, 2)
                if len(groups[one]) == len(groups[other])  # else nobody knows which run belongs to which
                and (found := difference(groups[one], groups[other], readers[name]))["runs"]
            }
            for name in compared
        },
        "valid_directions": {
            label: sum(r["selection"]["position"] is not None for r in reports) for label, reports in groups.items()
        },
        "runs": {label: len(reports) for label, reports in groups.items()},
    }


def collect(folders: Sequence[str | Path], output: str | Path, evaluations: Sequence[str | Path] = ()) -> str:
    """Write direction_table.md, direction_table.json and ablation.png; return the table.

    Args:
        evaluations: folders of finished evaluations of these models, for their attack success, over-refusal and
            helpfulness.

    Raises:
        InputError: see `load_reports` and `with_evaluations`.
    """
    groups, output = with_evaluations(load_reports(folders), evaluations), Path(output)
    output.mkdir(parents=True, exist_ok=True)
    content = study_numbers(groups)
    table = render(groups, content)
    (output / "direction_table.md").write_text(table, encoding="utf-8")
    (output / "direction_table.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    ablation_figure(groups).savefig(output / "ablation.png", dpi=150)
    return table


def render(groups: Mapping[str, Sequence[Report]], content: Mapping[str, Any]) -> str:
    """The table as Markdown, in per cent, and what it was made with."""
    lines = [["%", *(f"{label} ({len(reports)})" for label, reports in groups.items())]]
    found = content["valid_directions"]
    lines.append(["runs with a valid direction", *(f"{found[k]} of {len(v)}" for k, v in groups.items())])
    for name, cells in content["rows"].items():
        if any(cell["runs"] for cell in cells.values()):
            lines.append([name, *map(_shown, cells.values())])
    first = next(iter(groups.values()))[0]
    prompts = first["prompts"]
    rows = [f"| {' | '.join(line)} |" for line in lines]
    rows.insert(1, f"| --- {'| ---: ' * len(groups)}|")
    notes = [
        "",
        f"Test prompts per run: {prompts['harmful']['test']} harmful, {prompts['harmless']['test']} harmless. One run: "
        "95% interval of its rate. Several: mean ± standard deviation [95% interval over runs and prompts]. No valid "
        "direction is not evidence of robustness; such runs have no score.",
        "",
        *_differences(content["differences"], several=any(len(reports) > 1 for reports in groups.values())),
        *(f"- {report['label']}: `{report['run']['command']}`" for group in groups.values() for report in group[:1]),
        "",
    ]
    return "\n".join([*rows, *notes])


def _differences(found: Mapping[str, Mapping[str, Mapping[str, Any]]], *, several: bool) -> list[str]:
    """Paired differences in percentage points, one table; nothing for single runs."""
    pairs = list(dict.fromkeys(pair for cells in found.values() for pair in cells))
    if not several or not pairs:
        return []
    names = [name for name, cells in found.items() if cells]
    lines = [["difference, percentage points", *names]]
    for pair in pairs:
        lines.append([pair, *(_difference(found[name].get(pair)) for name in names)])
    rows = [f"| {' | '.join(line)} |" for line in lines]
    rows.insert(1, f"| --- {'| ---: ' * len(names)}|")
    note = (
        "Paired by run and prompt; 95% intervals over runs and prompts, not corrected for their number. *: the "
        "interval leaves 0 out. In brackets: pairs of runs in which both have a value. The k-th run of a label belongs "
        "to the k-th of the other; labels with other numbers of runs are not compared."
    )
    return [*rows, "", note, ""]


def _difference(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["low"] is None:
        return "-"
    clear = "*" if cell["low"] > 0 or cell["high"] < 0 else ""
    return f"{100 * cell['mean']:+.1f}{clear} [{100 * cell['low']:+.1f}, {100 * cell['high']:+.1f}] ({cell['runs']})"


def _shown(cell: Mapping[str, Any]) -> str:
    if not cell["runs"]:
        return "-"
    spread = "" if cell["sd"] is None else f" ± {100 * cell['sd']:.1f}"
    missing = f" ({cell['runs']} of {cell['of']} runs)" if cell["runs"] < cell["of"] else ""
    return f"{100 * cell['mean']:.1f}{spread} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]{missing}"


def ablation_figure(groups: Mapping[str, Sequence[Report]]) -> Figure:
    """Attack success per arm as it is and ablated, a dot per run: filled where the ablated direction was valid, hollow
    where only the candidate with the least bypass could be taken."""
    figure = new_figure(max(5.0, 1.3 * len(groups) + 2), 4.0)
    figure.suptitle("Attack success before and after directional ablation (a dot per run, bar: mean)", fontsize=11)
    panel = figure.subplots()
    for place, reports in enumerate(groups.values()):
        before = [100 * report["before"]["harmful"]["complied"]["rate"] for report in reports]
        valid = [bool(report["ablated"]) for report in reports]
        cells = [report["ablated"][0] if report["ablated"] else report["strongest"] for report in reports]
        pairs = [
            (100 * cell["harmful"]["complied"]["rate"], good) for cell, good in zip(cells, valid, strict=True) if cell
        ]
        for offset, values, colour in ((-0.18, before, BLUE), (0.18, [value for value, _ in pairs], VERMILION)):
            if values:
                panel.bar(place + offset, np.mean(values), 0.34, color=colour, alpha=0.25)
        panel.plot([place - 0.18] * len(before), before, "o", color=BLUE, markersize=4)
        for value, good in pairs:
            fill = VERMILION if good else "none"
            panel.plot(place + 0.18, value, "o", color=VERMILION, markerfacecolor=fill, markersize=5)
    for colour, name in ((BLUE, "as it is"), (VERMILION, "ablated (hollow: not a valid direction)")):
        panel.plot([], [], "o", color=colour, label=name)
    panel.set_xticks(range(len(groups)), [f"{label}\n({len(reports)} runs)" for label, reports in groups.items()])
    panel.tick_params(axis="x", labelsize=8, colors=GREY)
    panel.set_ylim(-3, 103)
    panel.set_ylabel("attack success, %")
    tidy(panel)
    panel.legend(frameon=False, fontsize=8)
    return figure
