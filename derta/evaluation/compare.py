"""Two checkpoints on the same prompts: paired differences of outcomes, and drift of length and format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from derta.errors import InputError
from derta.evaluation.drift import by_attack, format_drift
from derta.evaluation.measures import ANSWERED, HELPFULNESS, OVER_REFUSAL, SUCCESS, complied, refused
from derta.evaluation.records import Outcome, Result
from derta.evaluation.results import ResultsFolder
from derta.evaluation.summary import Identity, ModelIdentity, read_summary
from derta.statistics.bootstrap import PairedDifference, paired_difference
from derta.statistics.table import markdown

_MUST_AGREE = ("judge", "max_new_tokens")
_AMOUNTS = ("tokens", "words", "paragraphs", "score")
"""What is no share."""


def _of_scored(value: Callable[[Result], float | None]) -> Callable[[Result], float | None]:
    return lambda result: None if result.outcome is Outcome.UNSCORED else value(result)


MEASURES: dict[str, Callable[[Result], float | None]] = {
    "complied": _of_scored(lambda result: float(complied(result))),
    "refused": _of_scored(lambda result: float(refused(result))),
    "fully_safe": _of_scored(lambda result: None if result.fully_safe is None else float(result.fully_safe)),
    "score": _of_scored(lambda result: result.score),
}
"""Name -> value of a response, None where it does not count."""


@dataclass(frozen=True)
class SetComparison:
    """measures: means over attacks. attacks: attack -> the same for it alone, where there are several. drift: length
    and format of the responses."""

    harmful: bool
    measures: dict[str, PairedDifference]
    attacks: dict[str, dict[str, PairedDifference]]
    drift: dict[str, PairedDifference]


@dataclass(frozen=True)
class Comparison:
    """labels, models: those of "before" and "after"."""

    labels: dict[str, str]
    models: dict[str, ModelIdentity]
    knows_answers: bool
    sets: dict[str, SetComparison]


def compare_evaluations(before: str, after: str, *, seed: int = 0) -> Comparison:
    """Before and after, prompt by prompt.

    Args:
        before, after: folders of finished evaluations.

    Raises:
        InputError: unfinished evaluations, or ones with another judge, limit or prompts.
    """
    folders = {"before": before, "after": after}
    summaries = {side: read_summary(folder) for side, folder in folders.items()}
    shared = _shared_sets(*(summary.identity for summary in summaries.values()))
    results = {side: list(ResultsFolder(Path(folder)).read().values()) for side, folder in folders.items()}
    return Comparison(
        labels={side: summary.label for side, summary in summaries.items()},
        models={side: summary.identity.model for side, summary in summaries.items()},
        knows_answers=summaries["after"].identity.knows_answers,
        sets={
            name: _compare_set(
                *([result for result in found if result.prompt_set == name] for found in results.values()),
                harmful=summaries["after"].sets[name].harmful,
                attacks=[name for name in summaries["after"].sets[name].attacks],
                seed=seed,
            )
            for name in shared
        },
    )


def _shared_sets(before: Identity, after: Identity) -> list[str]:
    pairs = {key: (getattr(before, key), getattr(after, key)) for key in _MUST_AGREE}
    problems = [f"{key}: {first} before, {second} after" for key, (first, second) in pairs.items() if first != second]
    shared = [name for name in before.sets if name in after.sets]
    problems += [f"set {name} has other prompts" for name in shared if _prompts(before, name) != _prompts(after, name)]
    if not shared:
        problems.append("they have no prompt set in common")
    if problems:
        raise InputError.listing("these evaluations cannot be compared prompt by prompt:", problems)
    return shared


def _prompts(identity: Identity, name: str) -> Any:
    """What decides which prompts a set holds; the attacks may differ, those that both have are compared."""
    found = identity.sets[name]
    return found.sha256, found.source, found.rows, found.harmful


def _compare_set(
    before: Sequence[Result], after: Sequence[Result], *, harmful: bool, attacks: Sequence[str], seed: int
) -> SetComparison:
    sides = {name: [by_attack(side, value) for side in (before, after)] for name, value in MEASURES.items()}

    def moved(attack: str | None = None) -> dict[str, PairedDifference]:
        """Of all attacks, or of one."""
        return {
            measure: paired_difference(
                *({k: cell for k, cell in side.items() if attack in (None, k)} for side in found), seed=seed
            )
            for measure, found in sides.items()
        }

    alone = {attack: found for attack in attacks if (found := moved(attack))["complied"].n} if len(attacks) > 1 else {}
    return SetComparison(harmful, moved(), alone, format_drift(before, after, seed=seed))


def describe_comparison(compared: Comparison) -> str:
    """A Markdown table: before, after, difference with its 95% interval; shares in per cent."""
    lines = [["", compared.labels["before"], compared.labels["after"], "difference [95%]", "n"]]
    for name, found in compared.sets.items():
        words = {"complied": SUCCESS} if found.harmful else {"refused": OVER_REFUSAL}
        if not found.harmful:
            words["complied"] = HELPFULNESS if compared.knows_answers else ANSWERED
        of_all = f" (mean of {len(found.attacks)})" if found.attacks else ""
        rows = {(of_all, measure): numbers for measure, numbers in found.measures.items()}
        rows |= {
            (f", {attack.replace('_', ' ')}", measure): numbers
            for attack, each in found.attacks.items()
            for measure, numbers in each.items()
        }
        rows |= {("", feature): numbers for feature, numbers in found.drift.items()}
        for (which, measure), numbers in rows.items():
            if numbers.n:
                title = f"{name}, {words.get(measure, measure.replace('_', ' '))}{which}"
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
