"""Evaluated checkpoints as files, summary.json and probability.json of any number of evaluations, and their measures by
label: one run with its interval, several (the seeds of one arm) with their spread.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from derta.errors import InputError
from derta.evaluation.measures import SummaryMeasure, measures
from derta.evaluation.probability import Probability, read_probability
from derta.evaluation.records import LABEL_ORDER
from derta.evaluation.summary import Summary, read_summary
from derta.statistics.rates import Rate
from derta.statistics.table import Estimate, tabulate

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
    """Read the evaluations that belong in one table. Raises InputError: a folder without a finished evaluation, or
    evaluations that cannot be compared."""
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


@dataclass(frozen=True, slots=True)
class Combined(Estimate):
    """The runs of one label together. One run: its rate and 95% interval. Several: mean and mean -+ standard deviation
    of the runs that have the rate (`known` of `runs`). n: what it is a share of, each number once."""

    known: int = 0
    runs: int = 0
    n: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[float, float]:
        """low and high inside 0 to 1, beyond which a standard deviation may reach; the mean where there are none."""
        assert self.mean is not None
        low, high = (self.mean if end is None else min(max(end, 0.0), 1.0) for end in (self.low, self.high))
        return low, high

    @property
    def drawn(self) -> dict[str, Any]:
        """What a figure shows of it, where there is a mean."""
        low, high = self.ends
        return {"share": self.mean, "low": low, "high": high, "text": f"{self} %"}

    def __str__(self) -> str:
        """In per cent, or nats."""
        if self.runs == 1 or self.mean is None:
            return self.text()
        missing = f" ({self.known} of {self.runs} runs)" if self.known < self.runs else ""
        return f"{self.text(interval=False)}{missing}"


def combine(rates: Sequence[Rate | None]) -> Combined:
    """The rates of the runs of one label as one number with its interval or spread."""
    known = [found for found in rates if found is not None and found.rate is not None]
    counts = tuple(sorted({0 if found is None else found.n for found in rates}))
    if len(rates) == 1 and known:
        return Combined(known[0].rate, None, known[0].low, known[0].high, 1, 1, counts)
    shares = [found.rate for found in known if found.rate is not None]
    mean = statistics.fmean(shares) if shares else None
    sd = statistics.stdev(shares) if len(shares) > 1 else None
    low, high = (None, None) if mean is None or sd is None else (mean - sd, mean + sd)
    return Combined(mean, sd, low, high, len(known), len(rates), counts)


def counts(cells: Mapping[str, Combined]) -> dict[str, str]:
    """n by label, smallest to largest over its runs; one for all, under the empty label, where none differs."""
    texts = {label: "-".join(map(str, dict.fromkeys((cell.n[0], cell.n[-1])))) for label, cell in cells.items()}
    return {"": next(iter(texts.values()))} if len(set(texts.values())) == 1 else texts


def combined(runs: Sequence[Run]) -> dict[SummaryMeasure, dict[str, Combined]]:
    """Every measure of these evaluations, in the order of the report -> label -> number."""
    summaries = {label: [run.summary for run in members] for label, members in group_by_label(runs).items()}
    found = tabulate(summaries, measures([run.summary for run in runs]), combine)
    return {
        line: {label: replace(cell, unit=line.unit) for label, cell in cells.items()} for line, cells in found.items()
    }
