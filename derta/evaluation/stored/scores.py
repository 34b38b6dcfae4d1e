"""The numbers of what a judge said of stored responses (lines of scores.jsonl), and these in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from derta.evaluation.metrics import cumulative_positions, tally
from derta.evaluation.records import Outcome, Score
from derta.evaluation.summary import Staircase
from derta.statistics.agreement import Agreement, agreement
from derta.statistics.bootstrap import Mean
from derta.statistics.positions import shares_of_positions
from derta.statistics.rates import Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Of the responses to harmful or to benign prompts, or of one group: as in `Cell`, positions in words.

    complied: what the judge calls compliance; of benign prompts that is an answer, right or wrong.
    """

    n: int
    outcomes: dict[str, int]
    unscored: dict[str, int]
    complied: Rate
    refused: Rate
    positions_in_words: dict[str, Rate]
    cumulative_positions_in_words: Staircase
    categories: dict[str, int]
    fully_safe: Rate
    compliance: dict[str, Rate]
    score: Mean
    loops: Rate = Rate()
    goes_on: Rate = Rate()


@dataclass(frozen=True, slots=True)
class ScoresSummary:
    """summary.json of a judging. prompts: "harmful" and "benign"; groups where there are several; agreement: label ->
    with it. identity, run: which responses and which judge, and how."""

    prompts: dict[str, Numbers]
    groups: dict[str, Numbers]
    agreement: dict[str, Agreement]
    identity: dict[str, Any] = field(default_factory=dict)
    run: dict[str, str] = field(default_factory=dict)


def summarise(scores: Sequence[Score], label_names: Iterable[str] = (), **about: Any) -> ScoresSummary:
    """All numbers. about: identity and run."""
    groups = list(dict.fromkeys(score.group for score in scores))
    judged = [None if s.outcome is Outcome.UNSCORED else s.outcome is Outcome.COMPLIED for s in scores]
    sides = {"harmful": True, "benign": False}
    return ScoresSummary(
        {
            name: _numbers(side)
            for name, harmful in sides.items()
            if (side := [score for score in scores if score.harmful_prompt is harmful])
        },
        {name: _numbers([s for s in scores if s.group == name]) for name in groups if len(groups) > 1},
        {name: agreement(judged, [s.labels.get(name) for s in scores]) for name in label_names},
        **about,
    )


def _numbers(scores: Sequence[Score]) -> Numbers:
    counts = tally(scores)
    positions = [s.refusal_word for s in scores if s.outcome.is_refusal and s.refusal_word is not None]
    return Numbers(
        **counts,
        positions_in_words=shares_of_positions(positions),
        cumulative_positions_in_words=cumulative_positions(positions, counts["n"]),
        categories=dict(Counter(name for score in scores for name in score.categories)),
    )


def describe(summary: ScoresSummary) -> str:
    """The numbers in lines for a terminal."""
    lines = [f"judge {summary.identity['judge']} on {summary.run['responses']}"]
    if about := summary.run.get("asked_about"):
        lines.append(f"what was asked is taken from: {about}")
    sides = {f"{side} prompts": found for side, found in summary.prompts.items()}
    for name, numbers in (sides | summary.groups).items():
        unscored = ", ".join(f"{count} {reason}" for reason, count in sorted(numbers.unscored.items()))
        complied = "answered" if name == "benign prompts" else "complied"
        parts = [f"{complied} {numbers.complied}", f"refused {numbers.refused}"]
        if numbers.score.n:
            parts.append("score {mean:.2f} [{low:.2f}, {high:.2f}]".format(**asdict(numbers.score)))
        if numbers.fully_safe.n:
            parts.append(f"fully safe {numbers.fully_safe}")
        marks = {"refused and went on": numbers.goes_on, "with a loop": numbers.loops}
        parts += [f"{what} {found.count} of {found.n}" for what, found in marks.items() if found.count]
        if any(share.n for share in numbers.compliance.values()):
            parts.append(", ".join(f"{key.replace('_', ' ')} {share}" for key, share in numbers.compliance.items()))
        count = numbers.outcomes["unscored"]
        lines.append(f"{name}: n = {numbers.n}; {'; '.join(parts)}; {count} unscored{f' ({unscored})' * bool(count)}")
    for label, found in summary.agreement.items():
        kappa = "undefined" if found.kappa is None else f"{found.kappa:.3f}"
        lines.append(
            f"against {label}: agreement {found.agreement} of n = {found.agreement.n}, Cohen's kappa {kappa}; both yes "
            f"{found.both}, judge only {found.judge_only}, label only {found.label_only}, both no {found.neither}; "
            f"{found.unscored} unscored, {found.unlabelled} unlabelled"
        )
    return "\n".join(lines)
