"""What report.html shows of refusal-direction diagnostics: made of direction.json files alone.

A diagnostic belongs to an evaluation if both are of the same weights (sha256): its score then stands in the table, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from derta.direction.collect import load_reports, study_numbers
from derta.direction.score import KEY, SHOWN
from derta.report.runs import Run
from derta.statistics.rates import Rate

Reports = Mapping[str, Sequence[Mapping[str, Any]]]
_SCORES = {"bypass": "refusal_score", "induce": "steering_score", "kl": "kl_div_score"}


def load_directions(folders: Sequence[str]) -> Reports:
    """Diagnostics by label.

    Raises:
        InputError: folders without a finished diagnostic, or diagnostics that cannot be compared.
    """
    return load_reports(folders) if folders else {}


def with_scores(runs: Sequence[Run], reports: Reports) -> list[Run]:
    """The evaluations with the ablation robustness of the same weights, where they have none of their own yet."""
    scores = {
        report["identity"]["model"]["sha256"]: Rate(**{name: report[KEY][name] for name in SHOWN})
        for members in reports.values()
        for report in members
    }
    return [
        replace(run, summary=replace(run.summary, ablation_robustness=scores[sha256]))
        if run.summary.ablation_robustness is None and (sha256 := run.summary.identity.model.sha256) in scores
        else run
        for run in runs
    ]


def direction_content(reports: Reports) -> dict[str, Any] | None:
    """The section's content: table over labels, paired differences, and every diagnostic; None without any."""
    if not reports:
        return None
    numbers = study_numbers(reports)
    several = any(len(members) > 1 for members in reports.values())
    return {
        "labels": [{"name": label, "runs": len(members)} for label, members in reports.items()],
        "valid": list(numbers.valid_directions.values()),
        "rows": [
            {"name": name, "cells": [asdict(replace(cell, values=())) for cell in cells.values()]}
            for name, cells in numbers.rows.items()
        ],
        "differences": asdict(numbers)["differences"] if several else {},
        "diagnostics": [
            _diagnostic(report, f"{label}, {number}" if len(members) > 1 else label)
            for label, members in reports.items()
            for number, report in enumerate(members, 1)
        ],
    }


def _diagnostic(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    selection, suffix = report["selection"], report["suffix"]
    place = None if selection["position"] is None else [selection["position"], selection["layer"]]
    return {
        "name": name,
        "label": report["label"],
        "score": {key: report[KEY][key] for key in (*SHOWN, "reason")},
        "positions": report["positions"],
        "layers": report["layers"],
        "chosen": place,
        "candidates": [
            {
                "position": row["position"],
                "layer": row["layer"],
                "reasons": selection["dropped"].get(f"position {row['position']}, layer {row['layer']}", []),
                **{score: row[column] for score, column in _SCORES.items()},
            }
            for row in report["candidates"]
        ],
        "norms": report["norms"],
        "cosines": report["cosines"],
        "cells": _cells(report),
        "scales": [
            {
                "scale": cell["scale"],
                "before": cell["before"]["harmful"]["complied"],
                "ablated": cell["ablated"]["harmful"]["complied"],
            }
            for cell in report["adapter_scales"]
        ],
        "suffix": None if not suffix or suffix["reason"] else suffix,
        "command": report["run"]["command"],
        "seconds": report["run"].get("seconds"),
    }


def _cells(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Attack success, over-refusal and KL under each intervention."""
    cells = [("as it is", report["before"])]
    cells += [(f"{cell['directions']} ablated", cell) for cell in report["ablated"]]
    if report["strongest"]:
        cells.append(("ablated, not valid", report["strongest"]))
    cells += [(f"{cell['name']}'s ablated", cell) for cell in report["references"] if not cell["reason"]]
    if report["added"]:
        cells.append(("added", report["added"]))
    return [
        {
            "name": name,
            "success": _rate(cell, "harmful", "complied"),
            "refusal": _rate(cell, "harmful", "refused"),
            "over_refusal": _rate(cell, "harmless", "refused"),
            "kl": cell.get("kl"),
            "perplexity": cell.get("perplexity"),
        }
        for name, cell in cells
    ]


def _rate(cell: Mapping[str, Any], side: str, share: str) -> dict[str, Any] | None:
    return {key: cell[side][share][key] for key in ("rate", "low", "high", "n")} if side in cell else None
