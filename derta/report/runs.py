"""Evaluated checkpoints as files: summary.json and probability.json of any number of evaluations, grouped by label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from derta.errors import InputError
from derta.evaluation.probability import Probability, read_probability
from derta.evaluation.records import LABEL_ORDER
from derta.evaluation.summary import Summary, read_summary

_MUST_AGREE = ("judge", "max_new_tokens", "refusal_text")  # what some have not measured agrees with everything


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation. `name` is its folder's name; `probability` is None where it was not measured."""

    folder: Path
    name: str
    summary: Summary
    probability: Probability | None

    @property
    def label(self) -> str:
        return self.summary.label


def load_runs(folders: Sequence[str]) -> list[Run]:
    """Read the evaluations that belong in one table.

    Raises:
        InputError: a folder without a finished evaluation, or evaluations that cannot be compared.
    """
    if not folders:
        raise InputError("runs is empty: give the folders of one or more evaluations, runs=[DIR,DIR]")
    runs, problems = [], []
    for named in map(Path, folders):
        folder = named.parent if named.is_file() else named  # summary.json itself will do
        try:
            runs.append(Run(folder, folder.name, read_summary(named), read_probability(folder)))
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


def _disagreements(runs: Sequence[Run]) -> list[str]:
    """Settings that have to be the same in a comparison. Data may differ: each seed may have its own prompts."""
    first, found = runs[0], []
    for run in runs[1:]:
        for key in _MUST_AGREE:
            here, there = (getattr(each.summary.identity, key) for each in (run, first))
            if here != there and None not in (here, there):
                found.append(f"{run.name} has {key}={here}, {first.name} has {there}: evaluate both alike")
        if _attacks(run) != _attacks(first):
            found.append(f"{run.name} and {first.name} have different prompt sets or attacks: evaluate both alike")
    return found


def _attacks(run: Run) -> dict[str, list[str]]:
    return {name: list(prompts.attacks) for name, prompts in run.summary.sets.items()}
