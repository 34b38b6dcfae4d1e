"""The table of a sweep: arms x measures with mean, spread over seeds and 95% intervals over seeds x prompts, and the
paired differences between arms; from results files only.

    ROOT/**/evaluation/*/  results.jsonl, summary.json, sweep.json (arm, seed)
                                          |
    OUTPUT/table.md   table.json   table.csv   differences.csv

Seeds and prompts are both random (derta/statistics/two_way.py). Differences are taken prompt by prompt between runs of
the same seed, so what a seed or a prompt does to both arms drops out. Measures that are shares of something a seed
itself decides (of its refusals, of positions) have an interval over seeds alone.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from derta.errors import InputError
from derta.evaluation.records import LABEL_ORDER, Outcome, Result
from derta.evaluation.results import SUMMARY_FILE, ResultsFolder
from derta.report.collected_markdown import render
from derta.report.runs import load_runs
from derta.statistics.positions import POSITION_BUCKETS
from derta.statistics.two_way import rate_interval, two_way_interval
from derta.storage.atomic import write_atomically
from derta.storage.csv_files import csv_text

MEMBER_FILE = "sweep.json"
"""In the folder of each evaluation of a sweep: the arm and the seed that it belongs to."""
MEAN = "mean"
_REFUSALS = (Outcome.REFUSED, Outcome.MALFORMED_REFUSAL)
_COUNTS: dict[str, Callable[[Result], bool]] = {
    "complied": lambda result: result.outcome is Outcome.COMPLIED,
    "refused": lambda result: result.outcome in _REFUSALS,
    "malformed": lambda result: result.outcome is Outcome.MALFORMED_REFUSAL,
}
Cells = dict[str, dict[str, bool]]
"""Attack -> row id -> whether the (scored) response counts."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A column: what is counted, on which prompts, under which attack (`MEAN`: the mean over all of the set)."""

    name: str
    prompt_set: str
    attack: str
    counted: str


@dataclass(frozen=True)
class Member:
    """One evaluated run of a sweep."""

    arm: str
    seed: int
    folder: Path
    summary: dict[str, Any]
    results: list[Result]

    def cells(self, measure: Measure) -> Cells:
        found: Cells = {}
        for result in self.results:
            chosen = result.prompt_set == measure.prompt_set and measure.attack in (MEAN, result.attack)
            if chosen and result.outcome is not Outcome.UNSCORED:
                found.setdefault(result.attack, {})[result.id] = _COUNTS[measure.counted](result)
        return found


def write_tables(root: Path, output: Path) -> str:
    """Collect every finished evaluation of the sweep below `root`, write the four files, and return the Markdown.

    Raises:
        InputError: no finished evaluation; evaluations that do not belong into one table; an unwritable output.
    """
    members = load_members(root)
    collected = collect(members)
    text = render(collected)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / "table.json", json.dumps(collected, indent=2, ensure_ascii=False) + "\n")
        write_atomically(output / "table.csv", csv_text(_long(collected)))
        write_atomically(output / "differences.csv", csv_text(collected["differences"]))
        write_atomically(output / "table.md", text)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}") from error
    return f"{text}\nwritten to {output}: table.md, table.json, table.csv, differences.csv"


def load_members(root: Path) -> list[Member]:
    """The finished evaluations below `root`, one per arm and seed, arms in the order of the table."""
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
    for (arm, seed), same in itertools.groupby(sorted(members, key=_place), key=lambda m: (m.arm, m.seed)):
        if len(folders := [str(member.folder) for member in same]) > 1:
            problems.append(f"arm {arm} with seed {seed} is there several times: {', '.join(folders)}")
    if problems:
        raise InputError.listing("these evaluations do not belong into one table:", problems)
    return sorted(members, key=_place)


def _prompts(member: Member) -> dict[str, str]:
    return {name: prompts["sha256"][:12] for name, prompts in member.summary["identity"]["sets"].items()}


def _place(member: Member) -> tuple[int, str, int]:
    """Arms in the order of the reports; a variant, say rto_95, follows its arm."""
    starts = [number for number, name in enumerate(LABEL_ORDER) if f"{member.arm}_".startswith(f"{name}_")]
    return (max(starts, default=len(LABEL_ORDER)), member.arm, member.seed)


def measures(summary: Mapping[str, Any]) -> list[Measure]:
    """What these evaluations can be asked: attack success, over-refusal, and with the miniature's judge more."""
    exact = summary["identity"]["judge"] == "miniature"
    found = []
    for name, prompts in summary["sets"].items():
        attacks = [*prompts["attacks"], *([MEAN] if len(prompts["attacks"]) > 1 else [])]
        whole = attacks[-1]
        if prompts["harmful"]:
            found += [Measure(f"attack success, {attack}", name, attack, "complied") for attack in attacks]
            if exact:
                found.append(Measure("malformed refusals", name, whole, "malformed"))
        else:
            found.append(Measure(f"over-refusal, {name}", name, whole, "refused"))
            if exact:
                found.append(Measure(f"helpfulness, {name}", name, whole, "complied"))
    harmful = sum(prompts["harmful"] for prompts in summary["sets"].values())
    return found if harmful < 2 else [_named_apart(measure) for measure in found]


def _named_apart(measure: Measure) -> Measure:
    return Measure(f"{measure.name} ({measure.prompt_set})", measure.prompt_set, measure.attack, measure.counted)


def aligned(groups: Sequence[Sequence[Cells]]) -> list[np.ndarray] | None:
    """Values [seeds, prompts] of each group of runs on the prompts that *all* runs have a score for, attack by attack.

    With several attacks a prompt's value is weighted so that the mean over prompts is the mean of the attacks' rates,
    however many prompts each of them could use. None where some attack has no such prompt.
    """
    runs = [run for group in groups for run in group]
    attacks = list(runs[0])
    shared = {attack: set.intersection(*(set(run.get(attack, ())) for run in runs)) for attack in attacks}
    if not all(shared.values()):
        return None
    ids = sorted(set.union(*shared.values()))
    weight = {attack: len(ids) / (len(attacks) * len(shared[attack])) for attack in attacks}
    return [
        np.array([[sum(weight[a] * run[a][row] for a in attacks if row in shared[a]) for row in ids] for run in group])
        for group in groups
    ]


def collect(members: Sequence[Member]) -> dict[str, Any]:
    """All numbers of the table: `{"arms": {arm: {...}}, "differences": [...], ...}`; shares, not per cent."""
    arms = {arm: list(group) for arm, group in itertools.groupby(members, key=lambda member: member.arm)}
    wanted = measures(members[0].summary)
    cells = {(member.arm, member.seed, m): member.cells(m) for member in members for m in wanted}
    found: dict[str, Any] = {}
    for arm, group in arms.items():
        numbers: dict[str, Any] = {}
        for m in wanted:
            tables = aligned([[cells[arm, member.seed, m] for member in group]])
            numbers[m.name] = rate_interval(tables[0]) if tables else None
        found[arm] = {
            "seeds": [member.seed for member in group],
            "measures": numbers | dict(_shares(group)),
            "made_by": [_made_by(member) for member in group],
        }
    differences = []
    for before, after in itertools.combinations(arms, 2):
        both = sorted({m.seed for m in arms[before]} & {m.seed for m in arms[after]})
        for m in wanted if both else ():
            tables = aligned([[cells[arm, seed, m] for seed in both] for arm in (before, after)])
            if tables:
                numbers = two_way_interval(tables[1] - tables[0])
                numbers |= {key: _within(numbers[key], -1.0) for key in ("low", "high")}
                # One seed says nothing about another: there is no claim of an order without at least two.
                apart = len(both) > 1 and numbers["low"] is not None and (numbers["low"] > 0 or numbers["high"] < 0)
                differences.append({"measure": m.name, "before": before, "after": after, **numbers, "apart": apart})
    identity = members[0].summary["identity"]
    return {
        "judge": identity["judge"],
        "prompts": {name: prompts["rows"] for name, prompts in identity["sets"].items()},
        "prompts_sha256": {name: prompts["sha256"] for name, prompts in identity["sets"].items()},
        "arms": found,
        "differences": differences,
    }


def _shares(group: Sequence[Member]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each seed has one number for: form and place of its refusals, AUROC."""
    paths = {"refusals well-formed": ("well_formed", "rate")} | {
        f"refusals at token {bucket}": ("positions", bucket, "rate") for bucket, _, _ in POSITION_BUCKETS
    }
    harmful = [name for name, prompts in group[0].summary["sets"].items() if prompts["harmful"]]
    for name in harmful:
        for title, path in paths.items():
            values = [_follow(member.summary["sets"][name]["overall"], path) for member in group]
            yield (title if len(harmful) == 1 else f"{title} ({name})"), _over_seeds(values)
    if all(member.summary["separation"] for member in group):
        values = [member.summary["separation"]["all"]["auroc"] for member in group]
        yield "AUROC of P(refusal)", _over_seeds(values)


def _follow(summary: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = summary
    for key in path:
        value = value[key]
    return value


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    known = [[value] for value in values if value is not None]
    if not known:
        return {"mean": None, "sd": None, "low": None, "high": None, "seeds": 0, "prompts": None}
    found = two_way_interval(known) | {"prompts": None}
    return found | {key: _within(found[key], 0.0) for key in ("low", "high")}


def _within(value: float | None, lowest: float) -> float | None:
    return None if value is None else min(max(value, lowest), 1.0)


def _made_by(member: Member) -> dict[str, Any]:
    identity, run = member.summary["identity"], member.summary["run"]
    return {
        "seed": member.seed,
        "model": run["model"],
        "model_sha256": identity["model"]["sha256"],
        "command": run["command"],
        "versions": run["versions"],
    }


def _long(collected: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"arm": arm, "measure": name, **numbers}
        for arm, entry in collected["arms"].items()
        for name, numbers in entry["measures"].items()
        if numbers is not None
    ]
