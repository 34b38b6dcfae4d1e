"""The measures of evaluations by label: one run with its interval, several (the seeds of one arm) with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from derta.evaluation.measures import SummaryMeasure, measures
from derta.report.runs import Run, group_by_label
from derta.statistics.rates import Rate
from derta.statistics.table import Estimate, tabulate


@dataclass(frozen=True, slots=True)
class Combined(Estimate):
    """The runs of one label together. One run: its rate and 95% interval. Several: mean and mean -+ standard deviation
    of the runs that have the rate (`known` of `runs`). n: what it is a share of, each number once."""

    known: int = 0
    runs: int = 0
    n: tuple[int, ...] = ()

    def __str__(self) -> str:
        """In per cent."""
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


def combined(runs: Sequence[Run]) -> dict[SummaryMeasure, dict[str, Combined]]:
    """Every measure of these evaluations, in the order of the report -> label -> number."""
    summaries = {label: [run.summary for run in members] for label, members in group_by_label(runs).items()}
    return tabulate(summaries, measures([run.summary for run in runs]), combine)
