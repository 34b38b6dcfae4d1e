"""Everything that report.html shows, as one JSON object made from results files.

Absolute paths never get in: models and data are named as the evaluations name them. Response texts only on request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from derta.evaluation.measures import SummaryMeasure
from derta.evaluation.records import Outcome
from derta.evaluation.results import RESULTS_FILE
from derta.evaluation.summary import SUMMARY_FILE, Cell
from derta.report.directions import Reports, direction_content
from derta.report.figures import combine_curves
from derta.report.measures import Combined, combined
from derta.report.responses import read_results, refusals_by_position, texts
from derta.report.runs import Run, group_by_label
from derta.report.training_curves import training_run
from derta.statistics.positions import POSITION_BUCKETS


def page_content(
    runs: Sequence[Run], *, command: str = "", responses: bool = False, directions: Reports | None = None
) -> dict[str, Any]:
    """The content of the page.

    Args:
        command: what makes this report, for the record.
        responses: whether the texts of the responses go in.
        directions: refusal-direction diagnostics by label.
    """
    groups = group_by_label(runs)
    return {
        "command": command,
        "judge": runs[0].summary.identity.judge,
        "outcomes": [outcome.value for outcome in Outcome],
        "buckets": [
            {"name": name, "first": first, "last": last if last < 10**9 else None}
            for name, first, last in POSITION_BUCKETS
        ],
        "sets": [
            {"name": name, "harmful": prompts.harmful, "attacks": list(prompts.attacks)}
            for name, prompts in runs[0].summary.sets.items()
        ],
        "rows": [_row(measure, cells.values()) for measure, cells in combined(runs).items()],
        "checkpoints": [
            {
                "label": label,
                "runs": [_run(run, responses) for run in members],
                "probability": _probability(members),
            }
            for label, members in groups.items()
        ],
        "responses": responses,
        "directions": direction_content(directions or {}),
    }


def _row(line: SummaryMeasure, cells: Iterable[Combined]) -> dict[str, Any]:
    about = {"group": line.group, "name": line.name, "better": line.better, "source": ".".join(line.path)}
    where = {"set": line.prompt_set, "attack": line.attack}
    return about | where | {"cells": [asdict(cell) | {"value": cell.mean, "text": str(cell)} for cell in cells]}


def _run(run: Run, responses: bool) -> dict[str, Any]:
    results = read_results(run)
    trained = training_run(run)
    return {
        "name": run.name,
        "sets": {name: _cells(prompts.attacks) for name, prompts in run.summary.sets.items()},
        "refusals": refusals_by_position(results) if results else None,
        "responses": texts(results) if responses else None,
        "provenance": _provenance(run),
        "training": None if trained is None else asdict(trained),
    }


def _cells(attacks: Mapping[str, Cell]) -> dict[str, Any]:
    keys = ("n", "outcomes", "unscored", "skipped", "cut_off", "mean_response_tokens")
    return {attack: {key: getattr(cell, key) for key in keys} for attack, cell in attacks.items()}


def _probability(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Curves of P(refusal) per prompt set over the runs of one label, as in the figure."""
    measured = [run.probability.sets for run in runs if run.probability]
    if not measured:
        return None
    curves = {name: [sets[name] for sets in measured if name in sets] for name in measured[0]}
    return {
        "runs": len(measured),
        "sets": {
            name: {"harmful": members[0].harmful, "rows": sum(member.rows for member in members)}
            | {key: [round(float(p), 6) for p in values] for key, values in combine_curves(members).items()}
            for name, members in curves.items()
        },
    }


def _provenance(run: Run) -> dict[str, Any]:
    identity, made = run.summary.identity, run.summary.run
    files = [run.folder / name for name in (SUMMARY_FILE, RESULTS_FILE)]
    # All that decides the results but the model: equal for evaluations that may be compared.
    settings = {key: value for key, value in identity.to_json().items() if key != "model"}
    return {
        "command": made.command,
        "model": made.model,
        "revision": made.revision,
        "model_sha256": identity.model.sha256,
        "dtype": identity.model.dtype,
        "config": {"eval": made.eval} | {key: value for key, value in settings.items() if key != "sets"},
        "config_sha256": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "data": [
            {"set": name, "path": made.data.get(name), "rows": prompts.rows, "sha256": prompts.sha256}
            for name, prompts in identity.sets.items()
        ],
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()},
        "versions": made.versions,
    }
