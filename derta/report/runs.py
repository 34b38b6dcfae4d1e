"""Evaluated checkpoints as files: summary.json and probability.json of any number of evaluations, grouped by label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from derta.errors import InputError
from derta.evaluation.records import LABEL_ORDER
from derta.evaluation.results import PROBABILITY_FILE, SUMMARY_FILE

"""Columns with these labels come first, in this order and whatever the case of their letters; others follow."""
_MUST_AGREE = ("judge", "max_new_tokens", "refusal_text")


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation. `name` is its folder's name; `probability` is None where it was not measured."""

    folder: Path
    name: str
    summary: dict[str, Any]
    probability: dict[str, Any] | None

    @property
    def label(self) -> str:
        return self.summary["label"]


def load_runs(folders: Sequence[str]) -> list[Run]:
    """Read the evaluations that belong in one table.

    Raises:
        InputError: a folder without a finished evaluation, or evaluations that cannot be compared.
    """
    if not folders:
        raise InputError("runs is empty: give the folders of one or more evaluations, runs=[DIR,DIR]")
    runs, problems = [], []
    for folder in folders:
        try:
            runs.append(_load_run(Path(folder)))
        except InputError as error:
            problems.append(str(error))
    if not problems:
        problems = list(_disagreements(runs))
    if problems:
        raise InputError.listing("these evaluations cannot go into one report:", problems)
    return runs


def group_by_label(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs with the same label (seeds of one arm), in the order of the report's columns."""
    labels = dict.fromkeys(run.label for run in runs)
    place = {name: number for number, name in enumerate(LABEL_ORDER)}
    ordered = sorted(labels, key=lambda label: place.get(label.lower(), len(place)))  # stable: others keep their order
    return {label: [run for run in runs if run.label == label] for label in ordered}


def _load_run(folder: Path) -> Run:
    if not (folder / SUMMARY_FILE).is_file():
        raise InputError(f"{folder}: no {SUMMARY_FILE}; run launch/evaluate.py to the end first")
    probability = folder / PROBABILITY_FILE
    measured = _read(probability) if probability.is_file() else None
    return Run(folder, folder.name, _read(folder / SUMMARY_FILE), measured)


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: not valid JSON; run the evaluation again") from error


def _disagreements(runs: Sequence[Run]) -> list[str]:
    """Settings that have to be the same in a comparison. Data may differ: each seed may have its own prompts."""
    first, found = runs[0], []
    for run in runs[1:]:
        for key in _MUST_AGREE:
            here, there = run.summary["identity"][key], first.summary["identity"][key]
            if here != there:
                found.append(f"{run.name} has {key}={here}, {first.name} has {there}: evaluate both alike")
        if _attacks(run) != _attacks(first):
            found.append(f"{run.name} and {first.name} have different prompt sets or attacks: evaluate both alike")
    return found


def _attacks(run: Run) -> dict[str, list[str]]:
    return {name: list(prompts["attacks"]) for name, prompts in run.summary["sets"].items()}
