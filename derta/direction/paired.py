"""Numbers over several runs of several arms: intervals over seeds x prompts, and paired differences between arms.

One diagnostic tells what became of every test prompt, so the runs of an arm (seeds) make a table seeds x prompts, as in
derta/statistics/two_way.py. A rate among the prompts that this run was safe on before (ablation robustness) is a ratio
of two sums; it is brought into that table by linearisation:

    R = sum k / sum d        z = R + (k - R d) / mean(d)        mean(z) = R        k: kept safe, d: safe before

Differences are taken seed by seed and prompt by prompt; the k-th run of one label belongs to the k-th of the other.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from derta.direction.score import stayed_safe
from derta.errors import InputError
from derta.evaluation.measures import ANSWERED, HELPFULNESS, SummaryMeasure, measures
from derta.evaluation.records import REFUSALS, Outcome, Result
from derta.evaluation.summary import EXACT_JUDGE, Summary
from derta.statistics.rates import wilson
from derta.statistics.table import Estimate
from derta.statistics.two_way import rate_interval, two_way_interval

Report = Mapping[str, Any]
"""The content of direction.json, with the `Evaluated` of the same model under "evaluation" where there is one."""
Cell = Mapping[str, Any] | None
Cells = dict[str, tuple[float, float]]
"""Prompt -> (how often it counts, how often it is counted among)."""
Reader = Callable[[Report], Cells | None]


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation."""

    summary: Summary
    results: list[Result]


@dataclass(frozen=True, slots=True)
class OverRuns(Estimate):
    """Of so many runs with a value, of all; and their values."""

    runs: int = 0
    of: int = 0
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        missing = f" ({self.runs} of {self.of} runs)" if 0 < self.runs < self.of else ""
        return f"{self.text()}{missing}"


@dataclass(frozen=True, slots=True)
class Paired(Estimate):
    """A difference over so many pairs of runs."""

    runs: int = 0

    def __str__(self) -> str:
        if self.low is None:
            return "-"
        return f"{self.text(spread=False, sign='+')}{'*' if self.off_zero else ''} ({self.runs})"


def _cells(report: Report) -> dict[str, Cell]:
    """What was measured, by the names of the table. Results of earlier versions have no direction per layer."""
    return {
        "as it is": report["before"],
        "direction ablated": next(iter(report["ablated"]), None),
        "one direction per layer ablated": report.get("per_layer"),
        "least bypass ablated (not valid)": report.get("strongest"),
        "the reference's direction ablated": next((c for c in report.get("references", ()) if not c["reason"]), None),
        "direction added": report.get("added"),
    }


def _share(where: str, side: str, counted: Collection[Outcome]) -> Reader:
    def read(report: Report) -> Cells | None:
        found = _cells(report)[where]
        if not found or side not in found:
            return None
        outcomes = _outcomes(found[side])
        return {name: (float(one in counted), float(one is not Outcome.UNSCORED)) for name, one in outcomes.items()}

    return read


def _kept(report: Report) -> Cells | None:
    """Of the prompts that were safe before: whether they still are, with as many directions ablated as the score rests
    on."""
    count = report["ablation_robustness"].get("directions")
    return _kept_under(report, next((cell for cell in report["ablated"] if cell["directions"] == count), None))


def _kept_under(report: Report, after: Mapping[str, Any] | None) -> Cells | None:
    if after is None:
        return None
    before = _outcomes(report["before"]["harmful"])
    stayed = stayed_safe(before, _outcomes(after["harmful"]))
    return {name: (float(stayed.get(name, False)), float(name in stayed)) for name in before}


def _outcomes(cell: Mapping[str, Any]) -> dict[str, Outcome]:
    return {name: Outcome(value) for name, value in cell.get("by_id", {}).items()}


_COMPLIED, _BOTH = (Outcome.COMPLIED,), ("as it is", "direction ablated")
_ATTACKS = ("one direction per layer ablated", "least bypass ablated (not valid)", "the reference's direction ablated")
READERS: dict[str, Reader] = {
    "ablation robustness": _kept,
    "ablation robustness, one direction per layer": lambda report: _kept_under(report, report.get("per_layer")),
} | {
    f"{what}, {where}": _share(where, side, counted)
    for what, side, counted, places in (
        ("attack success", "harmful", _COMPLIED, (*_BOTH, *_ATTACKS)),
        ("garbled", "harmful", (Outcome.GARBLED,), (*_BOTH, *_ATTACKS)),
        ("refusal", "harmful", REFUSALS, (*_BOTH, _ATTACKS[1])),
        ("refusal of harmless prompts", "harmless", REFUSALS, ("direction added",)),
        ("over-refusal", "harmless", REFUSALS, _BOTH[1:]),
    )
    for where in places
}
"""Name of a row -> what it reads of a report; None where the report has no such thing."""


def readers(reports: Sequence[Report]) -> dict[str, Reader]:
    """`READERS`, what became of the harmless prompts in the judge's words, and rows of the evaluations that
    `with_evaluations` has put into the reports: those of whole prompt sets."""
    answers = HELPFULNESS if reports[0]["identity"]["judge"] == EXACT_JUDGE else ANSWERED
    found = READERS | {f"{answers}, {where}": _share(where, "harmless", _COMPLIED) for where in _BOTH}
    summaries = [report["evaluation"].summary for report in reports if "evaluation" in report]
    for line in measures(summaries) if summaries else ():
        if line.counts and (not line.attack or len(summaries[0].sets[line.prompt_set].attacks) == 1):
            found[f"evaluation: {line.name}"] = _evaluated(line)
    return found


def _evaluated(line: SummaryMeasure) -> Reader:
    def read(report: Report) -> Cells | None:
        if "evaluation" not in report:
            return None
        results = report["evaluation"].results
        found: Cells = {result.id: (0.0, 0.0) for result in results if result.prompt_set == line.prompt_set}
        for cell in line.cells(results).values():
            for row_id, counts in cell.items():
                found[row_id] = (found[row_id][0] + counts, found[row_id][1] + 1)
        return found

    return read


def over_runs(cells: Sequence[Cells | None]) -> OverRuns:
    """What the runs of one label have, each in `cells`."""
    known = [cell for cell in cells if _known(cell)]
    if not known:
        return OverRuns(of=len(cells))
    values = tuple(sum(k for k, _ in cell.values()) / sum(d for _, d in cell.values()) for cell in known)
    if len(known) == 1:
        # Of several attacks on one prompt the outcomes hang together: the interval is that of the prompts alone.
        prompts = sum(d > 0 for _, d in known[0].values())
        return OverRuns(values[0], None, *wilson(values[0], prompts), 1, len(cells), values)
    found = rate_interval(_linear(known))
    return OverRuns(found.mean, found.sd, found.low, found.high, len(known), len(cells), values)


def difference(one: Sequence[Cells | None], other: Sequence[Cells | None]) -> Paired:
    """`one` minus `other`, over the pairs of runs in which both have a value."""
    pairs = zip(one, other, strict=False)
    known = [(a, b) for a, b in pairs if _known(a) and _known(b) and a.keys() == b.keys()]
    if not known:
        return Paired()
    found = two_way_interval(_linear([a for a, _ in known]) - _linear([b for _, b in known])).within(-1.0)
    return Paired(found.mean, found.sd, found.low, found.high, len(known))


def _known(cell: Cells | None) -> TypeGuard[Cells]:
    return cell is not None and any(d for _, d in cell.values())


def _linear(cells: Sequence[Cells]) -> Any:
    """[S, P] numbers whose mean is the mean of the seeds' rates. Raises InputError: runs that hold other prompts."""
    names = sorted(cells[0])
    if any(cell.keys() != cells[0].keys() for cell in cells):
        raise InputError(
            "runs with one label were looked at with different prompts, so no interval over runs and prompts can be "
            "given: evaluate them on the same rows, with the same attacks and count"
        )
    table = np.array([[cell[name] for name in names] for cell in cells])  # [S, P, 2]
    k, d = table[..., 0], table[..., 1]
    rates = k.sum(1, keepdims=True) / d.sum(1, keepdims=True)  # of every seed
    return rates + (k - rates * d) / d.mean(1, keepdims=True)
