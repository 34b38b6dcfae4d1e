"""Two checkpoints on the same prompts: paired differences of outcomes, and drift of length and format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from derta.errors import InputError
from derta.evaluation.drift import by_attack, format_drift
from derta.evaluation.gate import read_summary
from derta.evaluation.records import Outcome, Result
from derta.evaluation.results import ResultsFolder
from derta.statistics.bootstrap import paired_difference

_MUST_AGREE = ("judge", "max_new_tokens")
_REFUSALS = (Outcome.REFUSED, Outcome.MALFORMED_REFUSAL)


def _of_scored(value: Callable[[Result], float | None]) -> Callable[[Result], float | None]:
    return lambda result: None if result.outcome is Outcome.UNSCORED else value(result)


MEASURES: dict[str, Callable[[Result], float | None]] = {
    "complied": _of_scored(lambda result: float(result.outcome is Outcome.COMPLIED)),
    "refused": _of_scored(lambda result: float(result.outcome in _REFUSALS)),
    "fully_safe": _of_scored(lambda result: None if result.fully_safe is None else float(result.fully_safe)),
    "score": _of_scored(lambda result: result.score),
}
"""Name -> value of a response, None where it does not count."""


def compare_evaluations(before: str, after: str, *, seed: int = 0) -> dict[str, Any]:
    """Per prompt set: `measures` and `drift`, each name -> `paired_difference`.

    Args:
        before, after: folders of finished evaluations.

    Raises:
        InputError: unfinished evaluations, or ones with another judge, limit or prompts.
    """
    folders = {"before": before, "after": after}
    summaries = {side: read_summary(folder) for side, folder in folders.items()}
    first, second = (summaries[side]["identity"] for side in folders)
    problems = [f"{key}: {first[key]} before, {second[key]} after" for key in _MUST_AGREE if first[key] != second[key]]
    shared = [name for name in first["sets"] if name in second["sets"]]
    problems += [f"set {name} has other prompts" for name in shared if _prompts(first, name) != _prompts(second, name)]
    if not shared:
        problems.append("they have no prompt set in common")
    if problems:
        raise InputError.listing("these evaluations cannot be compared prompt by prompt:", problems)
    results = {side: list(ResultsFolder(Path(folder)).read().values()) for side, folder in folders.items()}
    compared = {}
    for name in shared:
        sides = [[result for result in results[side] if result.prompt_set == name] for side in folders]
        compared[name] = {
            "harmful": summaries["after"]["sets"][name]["harmful"],
            "measures": {
                measure: paired_difference(*(by_attack(side, value) for side in sides), seed=seed)
                for measure, value in MEASURES.items()
            },
            "drift": format_drift(*sides, seed=seed),
        }
    labels = {side: summaries[side]["label"] for side in folders}
    return {"labels": labels, "models": {"before": first["model"], "after": second["model"]}, "sets": compared}


def describe_comparison(compared: dict[str, Any]) -> str:
    """A Markdown table: before, after, difference with its 95% interval; shares in per cent."""
    labels = compared["labels"]
    lines = [f"| | {labels['before']} | {labels['after']} | difference [95%] | n |", "|---|---|---|---|---|"]
    for name, found in compared["sets"].items():
        for measure, numbers in {**found["measures"], **found["drift"]}.items():
            if numbers["n"]:
                lines.append(f"| {name}, {measure.replace('_', ' ')} | {' | '.join(_cells(measure, numbers))} |")
    return "\n".join(lines)


def _cells(measure: str, numbers: dict[str, Any]) -> Iterator[str]:
    amount = measure in ("tokens", "words", "paragraphs", "score")
    scale, unit = (1, "") if amount else (100, "%")
    digits = 2 if measure == "score" else 1
    before, after, difference, low, high = (
        scale * numbers[key] for key in ("before", "after", "difference", "low", "high")
    )
    yield f"{before:.{digits}f}{unit}"
    yield f"{after:.{digits}f}{unit}"
    yield f"{difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    yield str(numbers["n"])


def _prompts(identity: dict[str, Any], name: str) -> Any:
    """What decides which prompts a set holds; the attacks may differ, those that both have are compared."""
    return {key: identity["sets"][name][key] for key in ("sha256", "source", "rows", "harmful")}
