"""What report.html shows of refusal-direction diagnostics: made of direction.json files alone.

A diagnostic belongs to an evaluation if both are of the same weights (sha256): its score then stands in the table, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from derta.charts import Figure
from derta.direction.collect import study_numbers
from derta.direction.figures import before_and_after, figures
from derta.direction.report import interventions, percent
from derta.direction.score import KEY, score_of
from derta.report.html import Numbers
from derta.report.runs import Run
from derta.statistics.rates import rate

Reports = Mapping[str, Sequence[Mapping[str, Any]]]


def with_scores(runs: Sequence[Run], reports: Reports) -> list[Run]:
    """The evaluations with the ablation robustness of the same weights, where they have none of their own yet."""
    scores = {
        report["identity"]["model"]["sha256"]: score_of(report) for members in reports.values() for report in members
    }
    return [
        replace(run, summary=replace(run.summary, ablation_robustness=scores[sha256]))
        if run.summary.ablation_robustness is None and (sha256 := run.summary.identity.model.sha256) in scores
        else run
        for run in runs
    ]


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One diagnostic: its score in words, its figures by name, its tables, and the command that made it."""

    name: str
    score: str
    figures: list[str]
    tables: list[Numbers]
    command: str


@dataclass(frozen=True, slots=True)
class DirectionContent:
    """The section: a table over labels, paired differences, every diagnostic, and its figures by name."""

    study: Numbers | None
    differences: Numbers | None
    diagnostics: list[Diagnostic]
    seconds: str
    figures: dict[str, Figure]


def direction_content(reports: Reports) -> DirectionContent:
    """What the page shows of these diagnostics; there is at least one."""
    found: dict[str, Figure] = {"ablation": before_and_after(reports)}
    diagnostics: list[Diagnostic] = []
    for label, members in reports.items():
        for number, report in enumerate(members, 1):
            own = {f"direction-{len(diagnostics)}-{name}": figure for name, figure in figures(report).items()}
            found |= own
            name = f"{label}, {number}" if len(members) > 1 else label
            diagnostics.append(
                Diagnostic(name, _score(report[KEY]), list(own), list(_tables(report)), report["run"]["command"])
            )
    study = study_numbers(reports)
    seconds = sum(report["run"].get("seconds") or 0 for members in reports.values() for report in members)
    tables = _numbers("Diagnostics side by side", study.table()), _numbers("Paired differences", study.paired_table())
    return DirectionContent(*tables, diagnostics, f"{seconds:.0f}", found)


def _numbers(title: str, lines: list[list[Any]]) -> Numbers | None:
    return Numbers(title, lines[0], [({}, line) for line in lines[1:]]) if lines else None


def _score(score: Mapping[str, Any]) -> str:
    if score["rate"] is None:
        return f"Ablation robustness: no score: {score['reason']}."
    return f"Ablation robustness: {percent(score)} of the refused prompts stay safe."


def _tables(report: Mapping[str, Any]) -> Iterator[Numbers]:
    rows = [
        [name, *(_rate(cell, *of) for of in _RATES.values()), _number(cell.get("kl")), _number(cell.get("perplexity"))]
        for name, cell in interventions(report)
    ]
    header = ["intervention", *_RATES, "KL, nats", "perplexity"]
    yield Numbers("Under interventions", header, [({}, row) for row in rows])
    if scales := report["adapter_scales"]:
        rows = [
            [f"{cell['scale']:g}", *(_rate(cell[s], "harmful", "complied") for s in ("before", "ablated"))]
            for cell in scales
        ]
        header = ["adapter times", "attack success", "ablated"]
        yield Numbers("The adapter scaled", header, [({}, row) for row in rows])
    if (suffix := report["suffix"]) and not suffix["reason"]:
        rows = [
            [name, f"{one['metric']:.2f}", *(f"{one['attention'][part]:.1%}" for part in ("instruction", "suffix"))]
            for name, one in suffix["conditions"].items()
        ]
        header = ["suffix", "refusal metric", "attention on the instruction", "on the suffix"]
        yield Numbers(f"Suffixes ({suffix['prompts']} prompts)", header, [({}, row) for row in rows])


_RATES = {
    "attack success": ("harmful", "complied"),
    "garbled": ("harmful", "garbled"),
    "refusal": ("harmful", "refused"),
    "over-refusal": ("harmless", "refused"),
}


def _rate(cell: Mapping[str, Any], side: str, share: str) -> str:
    if side not in cell:
        return "-"
    found = cell[side]
    if share in found:
        return percent(found[share])
    outcomes = found.get("outcomes")  # results of earlier versions have none
    return percent(asdict(rate(outcomes[share], found["n"]))) if outcomes else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
