"""Two checkpoints on the same prompts: paired differences of outcomes, and drift of length and format.

A safety tuner may leave the answers right and still make them shorter, flatter or cut off. Formats are told by the
marks of Markdown; a response has one or it has not, so each is a share.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from derta.errors import InputError
from derta.evaluation.measures import ANSWERED, HELPFULNESS, OVER_REFUSAL, SUCCESS
from derta.evaluation.metrics import by_attack, complied, refused, safe
from derta.evaluation.records import Outcome, Result
from derta.evaluation.results import ResultsFolder
from derta.evaluation.summary import Identity, ModelIdentity, read_summary
from derta.statistics.bootstrap import PairedDifference, paired_difference
from derta.statistics.table import markdown

_MUST_AGREE = ("judge", "max_new_tokens")
_AMOUNTS = ("tokens", "words", "paragraphs", "score")  # what is no share
MEASURES: dict[str, Callable[[Result], float | None]] = {
    "complied": complied,
    "refused": refused,
    "fully_safe": safe,
    "score": lambda result: None if result.outcome is Outcome.UNSCORED else result.score,
}
"""Name -> value of a response, None where it does not count."""

_LIST = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+\S", re.M)
_HEADING = re.compile(r"^#{1,6}\s+\S", re.M)
_CODE = re.compile(r"^\s*```", re.M)
_BOLD = re.compile(r"\*\*\S(?:.*?\S)?\*\*")

FEATURES: dict[str, Callable[[Result], float]] = {
    "tokens": lambda result: float(result.response_tokens - result.prefill_tokens),
    "words": lambda result: float(len(result.response.split())),
    "paragraphs": lambda result: float(len(re.split(r"\n\s*\n", result.response.strip()))),
    "list": lambda result: float(_LIST.search(result.response) is not None),
    "heading": lambda result: float(_HEADING.search(result.response) is not None),
    "code_block": lambda result: float(_CODE.search(result.response) is not None),
    "bold": lambda result: float(_BOLD.search(result.response) is not None),
    "cut_off": lambda result: float(not result.finished),
    "empty": lambda result: float(not result.response.strip()),
}
"""Name -> value of a response; the first three are lengths (tokens written by the model, without prefill)."""
Differences = dict[str, PairedDifference]


@dataclass(frozen=True)
class SetComparison:
    """measures: means over attacks. attacks: attack -> the same of it alone, where there are several. drift: length
    and format of the responses. words: what the measures are called on these prompts, with this judge."""

    harmful: bool
    measures: Differences
    attacks: dict[str, Differences]
    drift: Differences
    words: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """labels, models: those of "before" and "after"."""

    labels: dict[str, str]
    models: dict[str, ModelIdentity]
    sets: dict[str, SetComparison]


def compare_evaluations(before: str, after: str, *, seed: int = 0) -> Comparison:
    """Before and after, prompt by prompt.
    before, after: folders of finished evaluations.
    Raises InputError: unfinished evaluations, or ones with another judge, limit or prompts."""
    folders = {"before": before, "after": after}
    summaries = {side: read_summary(folder) for side, folder in folders.items()}
    shared = _shared_sets(*(summary.identity for summary in summaries.values()))
    results = [list(ResultsFolder(Path(folder)).read().values()) for folder in folders.values()]
    answers = HELPFULNESS if summaries["after"].identity.knows_answers else ANSWERED
    sets = {}
    for name in shared:
        sides = [[result for result in side if result.prompt_set == name] for side in results]
        prompts = summaries["after"].sets[name]
        alone = {
            attack: differences([[each for each in side if each.attack == attack] for side in sides], MEASURES, seed)
            for attack in prompts.attacks
            if len(prompts.attacks) > 1
        }
        sets[name] = SetComparison(
            harmful=prompts.harmful,
            measures=differences(sides, MEASURES, seed),
            attacks={attack: found for attack, found in alone.items() if found["complied"].n},
            drift=differences(sides, FEATURES, seed),
            words={"complied": SUCCESS} if prompts.harmful else {"complied": answers, "refused": OVER_REFUSAL},
        )
    labels = {side: summary.label for side, summary in summaries.items()}
    return Comparison(labels, {side: summary.identity.model for side, summary in summaries.items()}, sets)


def _shared_sets(before: Identity, after: Identity) -> list[str]:
    pairs = {key: (getattr(before, key), getattr(after, key)) for key in _MUST_AGREE}
    problems = [f"{key}: {first} before, {second} after" for key, (first, second) in pairs.items() if first != second]
    shared = [name for name in before.sets if name in after.sets]
    for name in shared:  # the attacks may differ: those that both have are compared
        if replace(before.sets[name], attacks=()) != replace(after.sets[name], attacks=()):
            problems.append(f"set {name} has other prompts")
    if not shared:
        problems.append("they have no prompt set in common")
    if problems:
        raise InputError.listing("these evaluations cannot be compared prompt by prompt:", problems)
    return shared


def differences(
    sides: Sequence[Sequence[Result]], values: Mapping[str, Callable[[Result], float | None]], seed: int = 0
) -> Differences:
    """Name -> mean before and after over the prompts that both checkpoints have a value for, and their difference."""
    return {
        name: paired_difference(*(by_attack(side, value) for side in sides), seed=seed)
        for name, value in values.items()
    }


def describe_comparison(compared: Comparison) -> str:
    """A Markdown table: before, after, difference with its 95% interval; shares in per cent."""
    lines = [["", compared.labels["before"], compared.labels["after"], "difference [95%]", "n"]]
    for name, found in compared.sets.items():
        whole = f" (mean of {len(found.attacks)})" if found.attacks else ""
        parts = {whole: found.measures, **{f", {key}": each for key, each in found.attacks.items()}}
        rows = [(which, measure, each) for which, part in parts.items() for measure, each in part.items()]
        for which, measure, numbers in [*rows, *(("", feature, each) for feature, each in found.drift.items())]:
            if numbers.n:
                title = f"{name}, {found.words.get(measure, measure)}{which}".replace("_", " ")
                lines.append([title, *_cells(measure, numbers)])
    return markdown(lines)


def _cells(measure: str, numbers: PairedDifference) -> Iterator[str]:
    scale, unit = (1, "") if measure in _AMOUNTS else (100, "%")
    digits = 2 if measure == "score" else 1
    for value in (numbers.before, numbers.after):
        yield f"{scale * (value or 0):.{digits}f}{unit}"
    moved, low, high = (scale * (value or 0) for value in (numbers.difference, numbers.low, numbers.high))
    yield f"{moved:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    yield str(numbers.n)
