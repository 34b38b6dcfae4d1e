"""Numbers that only some judges give, from scored responses; what a judge could not tell is counted as unknown.

`Scored` is anything with an outcome and the judge's further findings: lines of results.jsonl and of scores.jsonl.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from derta.evaluation.records import Compliance, Outcome
from derta.statistics.bootstrap import mean_interval
from derta.statistics.rates import rate


class Scored(Protocol):
    """See `derta.evaluation.records.Verdict`."""

    @property
    def outcome(self) -> Outcome: ...
    @property
    def fully_safe(self) -> bool | None: ...
    @property
    def compliance(self) -> Compliance | None: ...
    @property
    def score(self) -> float | None: ...


def judge_details(responses: Sequence[Scored]) -> dict[str, Any]:
    """`fully_safe`: rate of responses that refuse and hold nothing harmful, before or after the refusal.
    `compliance`: rates of XSTest's three classes. `score`: mean of the rubric with its interval.

    Each counts the responses for which its judge could tell; all are null-valued (n = 0) with a judge that cannot.
    """
    scored = [response for response in responses if response.outcome is not Outcome.UNSCORED]
    known = [response.fully_safe for response in scored if response.fully_safe is not None]
    return {
        "fully_safe": rate(sum(known), len(known)),
        "compliance": compliance_shares(scored),
        "score": mean_interval([response.score for response in scored if response.score is not None]),
    }


def compliance_shares(responses: Iterable[Scored]) -> dict[str, dict[str, Any]]:
    """Rate of each of XSTest's classes among the responses that have one."""
    classes = Counter(response.compliance for response in responses if response.compliance is not None)
    return {name.value: rate(classes[name], classes.total()) for name in Compliance}


def cumulative_positions(positions: Iterable[int], responses: int) -> dict[str, Any]:
    """The curve of the paper's Figure 4: how many responses have refused by each position.

    Args:
        positions: where each refusal starts, in tokens (or words) of its response.
        responses: all scored responses, refusing or not.

    Returns:
        `position`: those at which a refusal starts, rising; `of_refusals` and `of_responses`: shares that have refused
        up to and including it. The curve is a staircase: between two positions it keeps the value of the lower one.
    """
    counts = Counter(positions)
    rising = sorted(counts)
    reached, so_far = [], 0
    for position in rising:
        so_far += counts[position]
        reached.append(so_far)
    return {
        "position": rising,
        "of_refusals": [count / so_far for count in reached],
        "of_responses": [count / responses for count in reached],
        "responses": responses,
    }
