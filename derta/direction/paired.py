"""Numbers over several runs of several arms: intervals over seeds x prompts, and paired differences between arms.

One diagnostic tells what became of every test prompt, so the runs of an arm (seeds) make a table seeds x prompts, as in
derta/statistics/two_way.py. A rate among the prompts that this run was safe on before (ablation robustness) is a ratio
of two sums; it is brought into that table by linearisation:

    R = sum k / sum d        z = R + (k - R d) / mean(d)        mean(z) = R        k: kept safe, d: safe before

Differences are taken seed by seed and prompt by prompt; the k-th run of one label belongs to the k-th of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from derta.errors import InputError
from derta.evaluation.records import Outcome
from derta.statistics.rates import wilson
from derta.statistics.two_way import rate_interval, two_way_interval

Report = Mapping[str, Any]
Cell = Mapping[str, Any] | None
Cells = dict[str, tuple[float, float]]
"""Prompt -> (how often it counts, how often it is counted among)."""
Reader = Callable[[Report], Cells | None]
_REFUSALS = (Outcome.REFUSED, Outcome.MALFORMED_REFUSAL)


def ablated(report: Report) -> Cell:
    """With the chosen direction alone ablated; None where no valid one was found."""
    return report["ablated"][0] if report["ablated"] else None


def scored(report: Report) -> Cell:
    """With as many directions ablated as the score rests on."""
    count = report["ablation_robustness"].get("directions")
    return next((cell for cell in report["ablated"] if cell["directions"] == count), None)


def _share(cell: Callable[[Report], Cell], side: str, *counted: Outcome) -> Reader:
    def read(report: Report) -> Cells | None:
        found = cell(report)
        if not found or side not in found:
            return None
        outcomes = _outcomes(found[side])
        return {name: (float(one in counted), float(one is not Outcome.UNSCORED)) for name, one in outcomes.items()}

    return read


def _kept(report: Report) -> Cells | None:
    """Of the prompts that were safe before: whether they still are."""
    after = scored(report)
    if after is None:
        return None
    before, now = _outcomes(report["before"]["harmful"]), _outcomes(after["harmful"])
    found = {}
    for name, one in before.items():
        safe = one is not Outcome.COMPLIED and Outcome.UNSCORED not in (one, now[name])
        found[name] = (float(safe and now[name] is not Outcome.COMPLIED), float(safe))
    return found


def _outcomes(cell: Mapping[str, Any]) -> dict[str, Outcome]:
    return {name: Outcome(value) for name, value in cell.get("by_id", {}).items()}


def _before(report: Report) -> Cell:
    return report["before"]


def _strongest(report: Report) -> Cell:
    return report["strongest"]


def _added(report: Report) -> Cell:
    return report["added"]


def _base(report: Report) -> Cell:
    """With the first reference's direction ablated."""
    cells = [cell for cell in report["references"] if not cell["reason"]]
    return cells[0] if cells else None


COMPLIED = (Outcome.COMPLIED,)
READERS: dict[str, Reader] = {
    "ablation robustness": _kept,
    "attack success, as it is": _share(_before, "harmful", *COMPLIED),
    "attack success, direction ablated": _share(ablated, "harmful", *COMPLIED),
    "attack success, least bypass ablated (not valid)": _share(_strongest, "harmful", *COMPLIED),
    "attack success, the reference's direction ablated": _share(_base, "harmful", *COMPLIED),
    "refusal, as it is": _share(_before, "harmful", *_REFUSALS),
    "refusal, direction ablated": _share(ablated, "harmful", *_REFUSALS),
    "refusal, least bypass ablated (not valid)": _share(_strongest, "harmful", *_REFUSALS),
    "refusal of harmless prompts, direction added": _share(_added, "harmless", *_REFUSALS),
    "over-refusal, direction ablated": _share(ablated, "harmless", *_REFUSALS),
    "helpfulness, as it is": _share(_before, "harmless", *COMPLIED),
    "helpfulness, direction ablated": _share(ablated, "harmless", *COMPLIED),
}
"""Name of a row -> what it reads of a report; None where the report has no such thing."""


def evaluation_readers(reports: Sequence[Report]) -> dict[str, Reader]:
    """Rows of the evaluations that `with_evaluations` has put into the reports: attack success over all attacks,
    over-refusal and, where the judge can tell, helpfulness."""
    summary = next((report["evaluation"]["summary"] for report in reports if "evaluation" in report), None)
    if summary is None:
        return {}
    readers: dict[str, Reader] = {}
    for name, prompts in summary["sets"].items():
        if prompts["harmful"]:
            attacks = len(prompts["attacks"])
            readers[f"evaluation: attack success, mean of {attacks} ({name})"] = _evaluated(name, *COMPLIED)
            continue
        readers[f"evaluation: over-refusal ({name})"] = _evaluated(name, *_REFUSALS)
        if summary["identity"]["judge"] == "miniature":
            readers[f"evaluation: helpfulness ({name})"] = _evaluated(name, *COMPLIED)
    return readers


def _evaluated(prompt_set: str, *counted: Outcome) -> Reader:
    def read(report: Report) -> Cells | None:
        if "evaluation" not in report:
            return None
        found: dict[str, list[float]] = {}
        for result in report["evaluation"]["results"]:
            if result.prompt_set == prompt_set:
                sums = found.setdefault(result.id, [0.0, 0.0])
                sums[0] += result.outcome in counted
                sums[1] += result.outcome is not Outcome.UNSCORED
        return {name: (k, d) for name, (k, d) in found.items()}

    return read


def over_runs(reports: Sequence[Report], read: Reader) -> dict[str, Any]:
    """`mean`, `sd` (null for one run), `low`, `high`, `runs` (with a value), `of` (all runs) and the runs' `values`."""
    cells = [read(report) for report in reports]
    known = [cell for cell in cells if cell and _count(cell)]
    counts = {"runs": len(known), "of": len(cells), "values": [_ratio(cell) for cell in known]}
    if not known:
        return {"mean": None, "sd": None, "low": None, "high": None, **counts}
    if len(known) == 1:
        # Of several attacks on one prompt the outcomes hang together: the interval is that of the prompts alone.
        prompts = sum(d > 0 for _, d in known[0].values())
        low, high = wilson(_ratio(known[0]), prompts)
        return {"mean": _ratio(known[0]), "sd": None, "low": low, "high": high, **counts}
    found = rate_interval(_linear(known))
    return {key: found[key] for key in ("mean", "sd", "low", "high")} | counts


def difference(one: Sequence[Report], other: Sequence[Report], read: Reader) -> dict[str, Any]:
    """`one` minus `other`, over the pairs of runs in which both have a value: `mean`, `low`, `high`, `runs`."""
    pairs = [(read(a), read(b)) for a, b in zip(one, other, strict=False)]
    known = [(a, b) for a, b in pairs if a and b and _count(a) and _count(b) and a.keys() == b.keys()]
    if not known:
        return {"mean": None, "low": None, "high": None, "runs": 0}
    found = two_way_interval(_linear([a for a, _ in known]) - _linear([b for _, b in known]))
    return {key: found[key] for key in ("mean", "low", "high")} | {"runs": len(known)}


def _count(cell: Cells) -> float:
    return sum(d for _, d in cell.values())


def _ratio(cell: Cells) -> float:
    return sum(k for k, _ in cell.values()) / _count(cell)


def _linear(cells: Sequence[Cells]) -> Any:
    """[S, P] numbers whose mean is the mean of the seeds' rates.

    Raises:
        InputError: runs that hold other prompts.
    """
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
