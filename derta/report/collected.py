"""The numbers of a sweep: arms x measures with mean, spread over seeds and 95% intervals over seeds x prompts, and the
paired differences between arms; from results files only.

Seeds and prompts are both random (derta/statistics/two_way.py). Differences are taken prompt by prompt between runs of
the same seed, so what a seed or a prompt does to both arms drops out. Measures that are shares of something a seed
itself decides (of its refusals, of positions) have an interval over seeds alone.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from derta.errors import InputError
from derta.evaluation.measures import REFUSALS, SummaryMeasure, measures
from derta.evaluation.records import LABEL_ORDER, Outcome, Result
from derta.evaluation.results import ResultsFolder
from derta.evaluation.summary import SUMMARY_FILE, Summary
from derta.report.runs import load_runs
from derta.statistics.rates import Rate
from derta.statistics.table import tabulate
from derta.statistics.two_way import Interval, rate_interval, two_way_interval

MEMBER_FILE = "sweep.json"
"""In the folder of each evaluation of a sweep: the arm and the seed that it belongs to."""
Cells = dict[str, dict[str, bool]]
"""Attack -> row id -> whether the (scored) response counts."""


@dataclass(frozen=True)
class Member:
    """One evaluated run of a sweep."""

    arm: str
    seed: int
    folder: Path
    summary: Summary
    results: list[Result]


@dataclass(frozen=True)
class Difference:
    """A measure of `after` minus that of `before`, over the seeds that both have."""

    measure: str
    before: str
    after: str
    moved: Interval

    @property
    def apart(self) -> bool:
        """One seed says nothing about another: there is no claim of an order without at least two."""
        return self.moved.seeds > 1 and self.moved.off_zero


@dataclass(frozen=True)
class Collected:
    """arms: arm -> its runs. numbers: measure -> arm -> number, None where no prompt is scored in all runs.
    differences: of every pair of arms, in those measures that count responses."""

    arms: dict[str, list[Member]]
    lines: list[SummaryMeasure]
    numbers: dict[str, dict[str, Interval | None]]
    differences: list[Difference]


def load_members(root: Path) -> list[Member]:
    """The finished evaluations below `root`, one per arm and seed, arms in the order of the table. Raises InputError:
    no finished evaluation; evaluations that do not belong into one table."""
    files = sorted(root.glob(f"**/evaluation/*/{MEMBER_FILE}"))
    files = [file for file in files if (file.parent / SUMMARY_FILE).is_file()]
    if not files:
        raise InputError(f"{root} holds no finished evaluation of a sweep: run launch/sweep.py with sweep.evaluate")
    runs = load_runs([str(file.parent) for file in files])
    members = []
    for file, run in zip(files, runs, strict=True):
        known = json.loads(file.read_text(encoding="utf-8"))
        results = list(ResultsFolder(file.parent).read().values())
        members.append(Member(known["arm"], known["seed"], file.parent, run.summary, results))
    problems = []
    first = members[0]
    for member in members[1:]:
        if (here := _prompts(member)) != (there := _prompts(first)):
            problems.append(f"{member.folder} has other prompts than {first.folder}: {here} and {there}")
    members = sorted(members, key=_place)
    for (arm, seed), same in itertools.groupby(members, key=lambda m: (m.arm, m.seed)):
        if len(folders := [str(member.folder) for member in same]) > 1:
            problems.append(f"arm {arm} with seed {seed} is there several times: {', '.join(folders)}")
    if problems:
        raise InputError.listing("these evaluations do not belong into one table:", problems)
    return members


def _prompts(member: Member) -> dict[str, str]:
    return {name: prompts.sha256[:12] for name, prompts in member.summary.identity.sets.items()}


def _place(member: Member) -> tuple[int, str, int]:
    """Arms in the order of the reports; a variant, say rto_95, follows its arm."""
    starts = [number for number, name in enumerate(LABEL_ORDER) if f"{member.arm}_".startswith(f"{name}_")]
    return (max(starts, default=len(LABEL_ORDER)), member.arm, member.seed)


def collect(members: Sequence[Member]) -> Collected:
    """All numbers of the table, as shares."""
    arms = {arm: list(group) for arm, group in itertools.groupby(members, key=lambda member: member.arm)}
    lines = measures([member.summary for member in members])
    counted = [line for line in lines if line.counts] + _malformed_lines(members[0].summary)
    whole = [line for line in lines if line.group == REFUSALS or line.path == ("separation", "all")]
    results = {arm: [member.results for member in group] for arm, group in arms.items()}
    summaries = {arm: [member.summary for member in group] for arm, group in arms.items()}
    cells = {line: {arm: [line.cells(run) for run in runs] for arm, runs in results.items()} for line in counted}
    numbers: dict[str, dict[str, Interval | None]] = {
        measure.name: {arm: _over_prompts(runs) for arm, runs in found.items()} for measure, found in cells.items()
    }
    numbers |= {line.name: found for line, found in tabulate(summaries, whole, _over_seeds).items()}
    seeds = {arm: [member.seed for member in group] for arm, group in arms.items()}
    differences = [
        Difference(measure.name, before, after, moved)
        for before, after in itertools.combinations(arms, 2)
        for measure, found in cells.items()
        if (moved := _moved(*(dict(zip(seeds[arm], found[arm], strict=True)) for arm in (before, after))))
    ]
    return Collected(arms, [*counted, *whole], numbers, differences)


def _malformed_lines(summary: Summary) -> list[SummaryMeasure]:
    """Malformed refusals, as a share of all responses, where the judge tells them apart."""
    harmful = list(summary.of_sets(harmful=True)) if summary.identity.knows_answers else []
    return [
        SummaryMeasure(
            REFUSALS,
            "malformed refusals" + (f" ({name})" if len(harmful) > 1 else ""),
            ("sets", name, "overall", "outcomes", Outcome.MALFORMED_REFUSAL.value),
            "lower",
            name,
            counts=lambda r: None if r.outcome is Outcome.UNSCORED else r.outcome is Outcome.MALFORMED_REFUSAL,
        )
        for name in harmful
    ]


def aligned(groups: Sequence[Sequence[Cells]]) -> list[np.ndarray] | None:
    """Values [seeds, prompts] of each group of runs on the prompts that *all* runs have a score for, attack by attack.

    With several attacks a prompt's value is weighted so that the mean over prompts is the mean of the attacks' rates,
    however many prompts each of them could use. None where some attack has no such prompt.
    """
    runs = [run for group in groups for run in group]
    attacks = list(runs[0])
    shared = {attack: set.intersection(*(set(run.get(attack, ())) for run in runs)) for attack in attacks}
    if not attacks or not all(shared.values()):
        return None
    ids = sorted(set.union(*shared.values()))
    weight = {attack: len(ids) / (len(attacks) * len(shared[attack])) for attack in attacks}
    return [
        np.array([[sum(weight[a] * run[a][row] for a in attacks if row in shared[a]) for row in ids] for run in group])
        for group in groups
    ]


def _over_prompts(runs: Sequence[Cells]) -> Interval | None:
    tables = aligned([runs])
    return rate_interval(tables[0]) if tables else None


def _over_seeds(rates: Sequence[Rate | None]) -> Interval | None:
    known = [[found.rate] for found in rates if found is not None and found.rate is not None]
    return replace(two_way_interval(known), prompts=None).within(0.0) if known else None


def _moved(before: Mapping[int, Cells], after: Mapping[int, Cells]) -> Interval | None:
    """Over the seeds that both arms have and the prompts that all their runs have a score for."""
    seeds = sorted(before.keys() & after.keys())
    tables = aligned([[arm[seed] for seed in seeds] for arm in (before, after)]) if seeds else None
    return two_way_interval(tables[1] - tables[0]).within(-1.0) if tables else None
