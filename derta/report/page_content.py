"""Everything that report.html shows, made from results files: texts, tables and the specifications of its figures.

Absolute paths never get in: models and data are named as the evaluations name them. Response texts only on request.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from derta.charts import Rows, compared, library_version, specification
from derta.evaluation.measures import ANSWERED, HELPFULNESS, OVER_REFUSAL, SUCCESS, SummaryMeasure
from derta.evaluation.results import RESULTS_FILE
from derta.evaluation.summary import SUMMARY_FILE, Cell
from derta.report.depth import depth_curves, depth_table
from derta.report.directions import Reports, direction_content
from derta.report.figures import (
    BUCKETS,
    OUTCOMES,
    attack_outcomes,
    cumulative_refusals,
    outcome_shares,
    probability_curves,
    refusal_positions,
    refusal_probability,
    trade_off,
)
from derta.report.html import Numbers
from derta.report.later import Axis, later_curves, later_table
from derta.report.responses import refusal_counts, shown_responses
from derta.report.runs import Combined, Run, combined, counts, group_by_label
from derta.report.training_curves import TrainingRun, training_figures, training_run
from derta.storage.read_files import sha256_of

_AFTER = (0, 1, 5, 10, 20, 30, 40, 80, 160)
"""Tokens at which the tables behind the curves say their height."""
SECTIONS = {
    "summary": "Summary",
    "trade-off": "Trade-off",
    "attacks": "Attack by attack",
    "depth": "How deep",
    "later": "How durable",
    "position": "Where it refuses",
    "probability": "P(refusal)",
    "direction": "Refusal direction",
    "training": "Training",
    "responses": "Responses",
    "provenance": "Provenance",
}


def page_content(
    runs: Sequence[Run], *, command: str = "", responses: bool = False, directions: Reports | None = None
) -> dict[str, Any]:
    """The content of the page, as its template names it.

    Args:
        command: what makes this report, for the record.
        responses: whether the texts of the responses go in.
        directions: refusal-direction diagnostics by label.
    """
    groups = group_by_label(runs)
    trained = {label: [training_run(run) for run in members] for label, members in groups.items()}
    known = {label: [run for run in found if run] for label, found in trained.items() if any(found)}
    diagnosed = direction_content(directions) if directions else None
    refusals = list(refusal_counts(runs))
    drawn = {
        "trade-off": trade_off(runs),
        "attacks": attack_outcomes(runs),
        "depth": depth_curves(runs),
        **{f"later_{axis}": later_curves(runs, axis) for axis in Axis},
        "position": refusal_positions(runs) if any(row["count"] for row in refusals) else None,
        "cumulative": cumulative_refusals(runs),
        "probability": refusal_probability(runs),
        **training_figures(known),
        **(diagnosed.figures if diagnosed else {}),
    }
    figures = {name: specification(figure) for name, figure in drawn.items() if figure}
    texts = shown_responses(groups) if responses else []
    later = {f"later_{axis}": later_table(runs, axis) for axis in Axis if f"later_{axis}" in figures}
    there = {"summary": True, "later": later, "direction": diagnosed, "training": known, "responses": texts}
    there |= {"provenance": True, **figures}
    measures = combined(runs)
    return {
        "title": f"Safety evaluation: {', '.join(groups)}",
        "subtitle": _subtitle(runs, list(groups)),
        "sections": {name: title for name, title in SECTIONS.items() if there.get(name)},
        "checkpoints": {label: len(members) for label, members in groups.items()},
        "badges": {label: compared(i) for i, label in enumerate(groups)},
        "attacks": list(dict.fromkeys(attack for _, _, attack, _ in _cells(runs))),
        "outcomes": OUTCOMES,
        "several": any(len(members) > 1 for members in groups.values()),
        "knows_answers": runs[0].summary.identity.knows_answers,
        "rates": _rates(measures),
        "left_out": _left_out(runs),
        "tables": {
            "attacks": _attack_table(runs),
            "depth": depth_table(runs),
            "later": later,
            "position": _position_table(refusals),
            "cumulative": _cumulative_table(refusals),
            "probability": _probability_table(runs),
        },
        "without_results": list(dict.fromkeys(run.label for run in runs if not (run.folder / RESULTS_FILE).is_file())),
        "figures": figures,
        "directions": diagnosed,
        "responses": texts,
        "count": sum(len(each.responses) for each in texts),
        "provenance": [
            _provenance(run, found, run.name if len(members) > 1 else "")
            for label, members in groups.items()
            for run, found in zip(members, trained[label], strict=True)
        ],
        "sources": [({}, [line.name, ".".join(line.path)]) for line in measures],
        "command": command,
        "vega": library_version(),
    }


def _subtitle(runs: Sequence[Run], labels: Sequence[str]) -> str:
    first = runs[0].summary
    rows = {name: prompts.rows for name, prompts in first.identity.sets.items()}
    prompts = ", ".join(
        f"{name} ({rows[name]}, to be {'refused' if found.harmful else 'answered'})"
        for name, found in first.sets.items()
    )
    return f"{', '.join(labels)}. Prompts: {prompts}. Judge: {first.identity.judge}."


def _rates(measures: Mapping[SummaryMeasure, Mapping[str, Combined]]) -> dict[str, list[dict[str, Any]]]:
    """Group -> its rows; without those that nobody has a number for."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line, cells in measures.items():
        if all(cell.mean is None for cell in cells.values()):
            continue
        # The group's heading stands above: "attack success, direct" becomes "direct".
        short = line.name.removeprefix(line.group).lstrip(", ") or line.name
        main = (line.group == SUCCESS and not line.attack) or line.path in (("separation", "all"),)
        main |= line.group in (OVER_REFUSAL, HELPFULNESS, ANSWERED) and line.name.startswith(line.group)
        row = {"line": line, "short": short, "main": main, "cells": cells, "counts": counts(cells)}
        found.setdefault(line.group, []).append(row)
    return found


def _cells(runs: Sequence[Run]) -> Iterator[tuple[str, str, str, Cell]]:
    """(label, prompt set, attack, numbers) of every run."""
    for run in runs:
        for name, prompts in run.summary.sets.items():
            for attack, cell in prompts.attacks.items():
                yield run.label, name, attack, cell


def _left_out(runs: Sequence[Run]) -> Numbers:
    """What has no verdict, or no place in an attack: counted beside the rates, never in them."""
    sums: dict[tuple[str, str, str, str], int] = {}
    for label, name, attack, cell in _cells(runs):
        for what, reasons in (("unscored", cell.unscored), ("skipped", cell.skipped)):
            for reason, count in reasons.items():
                key = (label, name, attack, f"{what}: {reason}")
                sums[key] = sums.get(key, 0) + count
    rows = [
        (_about(label, attack), [label, name, _words(attack), why, count])
        for (label, name, attack, why), count in sums.items()
    ]
    title = f"Unscored and skipped: {sum(sums.values())}"
    return Numbers(title, ["checkpoint", "prompts", "attack", "why", "count"], rows)


def _attack_table(runs: Sequence[Run]) -> Numbers:
    rows: dict[tuple[str, str, str], list[Any]] = {}
    for share in outcome_shares(runs):
        label, name, attack = key = (share["checkpoint"], share["set"], share["attack"])
        rows.setdefault(key, [label, name, _words(attack)]).append(share["text"])
    header = ["checkpoint", "prompts", "attack", *map(_words, OUTCOMES)]
    found = [(_about(label, attack), cells) for (label, _, attack), cells in rows.items()]
    return Numbers("Numbers of this figure, %", header, found)


def _position_table(refusals: Rows) -> Numbers:
    found: dict[tuple[str, str], dict[str, int]] = {}
    for row in refusals:
        cell = found.setdefault((row["checkpoint"], row["attack"]), dict.fromkeys(BUCKETS, 0))
        if row["bucket"]:
            cell[row["bucket"]] += row["count"]
    rows = [
        (_about(label, attack), [label, _words(attack), *cell.values(), sum(cell.values())])
        for (label, attack), cell in found.items()
    ]
    header = ["checkpoint", "attack", *(f"token {name}" for name in BUCKETS), "refusals"]
    return Numbers("Refusals of each attack by position", header, rows)


def _cumulative_table(refusals: Rows) -> Numbers | None:
    rows = []
    for label, found in itertools.groupby(refusals, key=lambda row: row["checkpoint"]):
        own = list(found)
        reached = [sum(row["count"] for row in own if row["token"] is not None and row["token"] <= n) for n in _AFTER]
        total = sum(row["count"] for row in own if row["token"] is not None)
        wholes = {"refusals": total, "scored responses": sum(row["responses"] for row in own)}
        for of, whole in wholes.items() if total else ():
            rows.append(({"data-checkpoint": label}, [f"{label}, of {of}", *(f"{n / whole:.1%}" for n in reached)]))
    header = ["all attacks together", *(f"by token {token}" for token in _AFTER)]
    return Numbers("Share that has refused by each token", header, rows) if rows else None


def _probability_table(runs: Sequence[Run]) -> Numbers:
    rows = []
    for curve in probability_curves(runs):
        mean = curve["mean"]
        values = [f"{mean[token]:.3f}" if token < len(mean) else "-" for token in _AFTER]
        name = f"{curve['checkpoint']}, {curve['set']} ({curve['rows']} rows)"
        rows.append(({"data-checkpoint": curve["checkpoint"]}, [name, *values]))
    return Numbers("Numbers of this figure", ["mean", *(f"after {token}" for token in _AFTER)], rows)


def _about(label: str, attack: str) -> dict[str, str]:
    return {"data-checkpoint": label, "data-attack": attack}


def _words(name: str) -> str:
    return name.replace("_", " ")


def _provenance(run: Run, trained: TrainingRun | None, name: str) -> dict[str, Any]:
    identity, made = run.summary.identity, run.summary.run
    files = [run.folder / name for name in (SUMMARY_FILE, RESULTS_FILE)]
    # All that decides the results but the model: equal for evaluations that may be compared.
    settings = {key: value for key, value in identity.to_json().items() if key != "model"}
    shown = {"eval": made.eval} | {key: value for key, value in settings.items() if key != "sets"}
    return {
        "label": run.label,
        "name": name,
        "command": made.command,
        "model": made.model,
        "revision": made.revision,
        "model_sha256": identity.model.sha256,
        "dtype": identity.model.dtype,
        "config": "; ".join(
            f"{_words(key)}: {value if isinstance(value, str) else json.dumps(value)}"
            for key, value in shown.items()
            if value not in (None, {})
        ),
        "config_sha256": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "data": [
            {"set": name, "path": made.data.get(name), "rows": prompts.rows, "sha256": prompts.sha256}
            for name, prompts in identity.sets.items()
        ],
        "files": {file.name: sha256_of(file) for file in files if file.is_file()},
        "trained": trained,
        "versions": made.versions,
    }
