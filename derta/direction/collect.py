"""Many diagnostics side by side: a table and a figure, made of direction.json files alone.

One result per label is shown with its own 95% interval. Several (seeds of one arm): mean +- standard deviation and, in
brackets, a 95% interval over seeds and prompts; runs without a value are left out and counted. Differences between arms
are paired by run and prompt (derta/direction/paired.py).
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from derta.charts import write_png
from derta.direction.figures import before_and_after
from derta.direction.paired import Evaluated, OverRuns, Paired, Report, difference, over_runs, readers
from derta.errors import InputError
from derta.evaluation.records import LABEL_ORDER
from derta.evaluation.results import ResultsFolder
from derta.evaluation.summary import Summary, read_summary
from derta.statistics.table import markdown
from derta.storage.atomic import write_atomically, write_errors_named, write_json_atomically
from derta.storage.claim import differences

_COMPARED = ("ablation robustness", "attack success, direction ablated", "evaluation: ")
# A base model that refuses nothing can only be looked at without the filter; suffixes are found on one model.
_MAY_DIFFER = ("filter_prompts", "suffix")


def load_reports(folders: Sequence[str | Path]) -> dict[str, list[Report]]:
    """direction.json of every folder by label, known arms first. Raises InputError: folders without one, or results
    made with different settings; all are listed."""
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
        if differing := list(differences(_made_with(reports[0][1]), _made_with(report))):
            problems.append(f"{folder} differs from {reports[0][0]}: {'; '.join(differing)}; run both alike")
    if problems:
        raise InputError.listing("these diagnostics cannot go into one table:", problems)
    place = {name: number for number, name in enumerate(LABEL_ORDER)}
    labels = sorted({report["label"] for _, report in reports}, key=lambda name: (place.get(name, len(place)), name))
    return {label: [report for _, report in reports if report["label"] == label] for label in labels}


def _made_with(report: Report) -> dict[str, Any]:
    """What diagnostics must share to be compared."""
    identity = report["identity"]
    shared = {key: value for key, value in identity["settings"].items() if key not in _MAY_DIFFER}
    return {"judge": identity["judge"], "prompts": identity["prompts"], **shared}


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

    def table(self) -> list[list[Any]]:
        """Titles, then a line per row, in per cent."""
        valid = (f"{found} of {self.runs[label]}" for label, found in self.valid_directions.items())
        return [
            ["%", *(f"{label} ({count})" for label, count in self.runs.items())],
            ["runs with a valid direction", *valid],
            *([name, *cells.values()] for name, cells in self.rows.items()),
        ]

    def paired_table(self) -> list[list[Any]]:
        """Titles, then a line per pair of labels, in percentage points; empty where no label has several runs."""
        names = [name for name, cells in self.differences.items() if cells]
        pairs = list(dict.fromkeys(pair for cells in self.differences.values() for pair in cells))
        if not pairs or max(self.runs.values()) == 1:
            return []
        lines = [[pair, *(self.differences[name].get(pair, Paired()) for name in names)] for pair in pairs]
        return [["difference, percentage points", *names], *lines]


def study_numbers(groups: Mapping[str, Sequence[Report]]) -> Study:
    """All numbers of these diagnostics, by label."""
    wanted = readers([report for reports in groups.values() for report in reports])
    pairs = [  # of other numbers of runs nobody knows which belongs to which
        (one, other) for other, one in itertools.combinations(groups, 2) if len(groups[one]) == len(groups[other])
    ]
    rows, compared = {}, {}
    for name, read in wanted.items():
        cells = {label: [read(report) for report in reports] for label, reports in groups.items()}
        over = {label: over_runs(runs) for label, runs in cells.items()}
        if any(number.runs for number in over.values()):
            rows[name] = over
        if name.startswith(_COMPARED):
            found = {f"{one} - {other}": difference(cells[one], cells[other]) for one, other in pairs}
            compared[name] = {pair: number for pair, number in found.items() if number.runs}
    valid = {label: sum(r["selection"]["position"] is not None for r in reports) for label, reports in groups.items()}
    return Study(rows, compared, valid, {label: len(reports) for label, reports in groups.items()})


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
    """The tables as Markdown, and what they were made with."""
    prompts = next(iter(groups.values()))[0]["prompts"]
    paired = study.paired_table()
    return "\n".join(
        [
            markdown(study.table()),
            "",
            f"Test prompts per run: {prompts['harmful']['test']} harmful, {prompts['harmless']['test']} harmless. One "
            "run: 95% interval of its rate. Several: mean ± standard deviation [95% interval over runs and prompts]. "
            "No valid direction is not evidence of robustness; such runs have no score.",
            "",
            *([markdown(paired), "", _PAIRED, ""] if paired else ()),
            *(f"- {reports[0]['label']}: `{reports[0]['run']['command']}`" for reports in groups.values()),
            "",
        ]
    )


_PAIRED = (
    "Paired by run and prompt; 95% intervals over runs and prompts, not corrected for their number. *: the interval "
    "leaves 0 out. In brackets: pairs of runs in which both have a value. The k-th run of a label belongs to the k-th "
    "of the other; labels with other numbers of runs are not compared."
)
