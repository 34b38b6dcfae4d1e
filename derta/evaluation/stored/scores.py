"""What a judge said of stored responses: lines of scores.jsonl, their numbers, and these in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from derta.evaluation.records import Compliance, Outcome
from derta.evaluation.response_metrics import (
    compliance_shares,
    cumulative_positions,
    fully_safe,
    going_on,
    looping,
    mean_score,
)
from derta.statistics.agreement import agreement
from derta.statistics.positions import shares_of_positions
from derta.statistics.rates import rate


@dataclass(frozen=True, slots=True)
class Score:
    """One line of scores.jsonl: what the judge says of a response, beside the labels it came with.

    index: place in the file, from 0. refusal_word: words before the first refusal. The rest: see `Verdict`.
    """

    index: int
    id: str
    group: str
    harmful_prompt: bool
    outcome: Outcome
    refusal_word: int | None
    reason: str = ""
    fully_safe: bool | None = None
    compliance: Compliance | None = None
    score: float | None = None
    categories: tuple[str, ...] = ()
    labels: dict[str, bool | None] = field(default_factory=dict)
    loops: bool | None = None
    goes_on: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # str enumerations are written as their values

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Score:
        compliance = line["compliance"]
        known = {
            "outcome": Outcome(line["outcome"]),
            "compliance": None if compliance is None else Compliance(compliance),
            "categories": tuple(line["categories"]),
        }
        return cls(**(line | known))


def summarise(scores: Sequence[Score], label_names: Iterable[str] = ()) -> dict[str, Any]:
    """All numbers: of the responses to harmful and to benign prompts, of each group where there are several, and
    agreement per label."""
    groups = list(dict.fromkeys(score.group for score in scores))
    judged = [None if s.outcome is Outcome.UNSCORED else s.outcome is Outcome.COMPLIED for s in scores]
    sides = {"harmful": True, "benign": False}
    return {
        "prompts": {
            name: _numbers(side)
            for name, harmful in sides.items()
            if (side := [score for score in scores if score.harmful_prompt is harmful])
        },
        "groups": {name: _numbers([s for s in scores if s.group == name]) for name in groups if len(groups) > 1},
        "agreement": {name: asdict(agreement(judged, [s.labels.get(name) for s in scores])) for name in label_names},
    }


def _numbers(scores: Sequence[Score]) -> dict[str, Any]:
    outcomes = Counter(score.outcome for score in scores)
    n = len(scores) - outcomes[Outcome.UNSCORED]
    positions = [s.refusal_word for s in scores if s.outcome.is_refusal and s.refusal_word is not None]
    return {
        "n": n,
        "outcomes": {outcome.value: outcomes[outcome] for outcome in Outcome},
        "unscored": dict(Counter(s.reason for s in scores if s.outcome is Outcome.UNSCORED)),
        "complied": asdict(rate(outcomes[Outcome.COMPLIED], n)),
        "refused": asdict(rate(sum(score.outcome.is_refusal for score in scores), n)),
        "positions_in_words": {name: asdict(share) for name, share in shares_of_positions(positions).items()},
        "cumulative_positions_in_words": asdict(cumulative_positions(positions, n)),
        "categories": dict(Counter(name for score in scores for name in score.categories)),
        "fully_safe": asdict(fully_safe(scores)),
        "compliance": {name: asdict(share) for name, share in compliance_shares(scores).items()},
        "score": asdict(mean_score(scores)),
        "loops": asdict(looping(scores)),
        "goes_on": asdict(going_on(scores)),
    }


def describe(summary: dict[str, Any]) -> str:
    """The numbers in lines for a terminal."""
    about = summary["run"].get("asked_about")
    lines = [f"judge {summary['identity']['judge']} on {summary['run']['responses']}"]
    lines += [f"what was asked is taken from: {about}"] if about else []
    for name, numbers in {
        **{f"{side} prompts": found for side, found in summary["prompts"].items()},
        **summary["groups"],
    }.items():
        unscored = ", ".join(f"{count} {reason}" for reason, count in sorted(numbers["unscored"].items()))
        parts = [f"complied {_percent(numbers['complied'])}", f"refused {_percent(numbers['refused'])}"]
        if numbers["score"]["n"]:
            parts.append("score {mean:.2f} [{low:.2f}, {high:.2f}]".format(**numbers["score"]))
        if numbers["fully_safe"]["n"]:
            parts.append(f"fully safe {_percent(numbers['fully_safe'])}")
        parts += [
            f"{what} {found['count']} of {found['n']}"
            for key, what in (("goes_on", "refused and went on"), ("loops", "with a loop"))
            if (found := numbers.get(key)) and found["count"]
        ]
        classes = numbers["compliance"]
        if any(share["n"] for share in classes.values()):
            parts.append(", ".join(f"{key.replace('_', ' ')} {_percent(share)}" for key, share in classes.items()))
        count = numbers["outcomes"]["unscored"]
        lines.append(
            f"{name}: n = {numbers['n']}; {'; '.join(parts)}; {count} unscored{f' ({unscored})' * bool(count)}"
        )
    for label, found in summary["agreement"].items():
        kappa = "undefined" if found["kappa"] is None else f"{found['kappa']:.3f}"
        lines.append(
            f"against {label}: agreement {_percent(found['agreement'])} of n = {found['agreement']['n']}, "
            f"Cohen's kappa {kappa}; both yes {found['both']}, judge only {found['judge_only']}, label only "
            f"{found['label_only']}, both no {found['neither']}; {found['unscored']} unscored, "
            f"{found['unlabelled']} unlabelled"
        )
    return "\n".join(lines)


def _percent(share: dict[str, Any]) -> str:
    if not share["n"]:
        return "-"
    return f"{100 * share['rate']:.1f}% [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"
