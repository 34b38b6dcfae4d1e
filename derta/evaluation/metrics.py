"""Numbers from results: pure functions of the lines of results.jsonl, without torch.

Rates are those of `derta.statistics.rates`. n counts scored responses only: unscored ones are reported beside it and
never counted as a 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace

import numpy as np

from derta.evaluation.records import Outcome, Result
from derta.evaluation.response_metrics import (
    compliance_shares,
    cumulative_positions,
    fully_safe,
    going_on,
    looping,
    mean_score,
)
from derta.evaluation.summary import Cell, Overall, SetSummary, Staircase
from derta.statistics.positions import shares_of_positions
from derta.statistics.rates import Rate, rate, wilson


def mean_over_attacks(cells: Mapping[str, Mapping[str, bool]]) -> Rate:
    """Unweighted mean of the rates of several attacks on the same prompts, with a 95% interval.

    The responses of one prompt to several attacks hang together, so they count for less than as many prompts would.
    The interval is Wilson's with an effective n = p (1 - p) / Var(p), the variance being taken between prompts, and
    n_prompts <= effective n <= n_responses; where all responses agree it is n_prompts.

    Args:
        cells: attack -> row id -> whether the response counts (scored responses only).

    Returns:
        count and n are those of all responses together.
    """
    cells = {attack: cell for attack, cell in cells.items() if cell}
    if not cells:
        return rate(0, 0)
    ids = sorted({row_id for cell in cells.values() for row_id in cell})
    scored = np.array([[row_id in cell for row_id in ids] for cell in cells.values()], dtype=np.float64)  # [A, N]
    counts = np.array([[cell.get(row_id, False) for row_id in ids] for cell in cells.values()], dtype=np.float64)
    rates = counts.sum(1) / scored.sum(1)  # [A]
    mean = float(rates.mean())
    # What each prompt moves the mean by, up to first order: [A, N] -> [N].
    shifts = (scored * (counts - rates[:, None]) / scored.sum(1, keepdims=True)).mean(0)
    variance = float((shifts**2).sum()) * len(ids) / max(len(ids) - 1, 1)
    spread = mean * (1 - mean)
    total = float(scored.sum())
    if spread == 0:
        effective = float(len(ids))
    else:
        effective = min(max(spread / variance if variance > 0 else total, len(ids)), total)
    return Rate(int(counts.sum()), int(total), mean, *wilson(mean, effective))


def position_shares(results: Iterable[Result]) -> dict[str, Rate]:
    """Where refusals start: share of the refusals (well-formed or not) in each of `POSITION_BUCKETS`."""
    return shares_of_positions(refusal_positions(results))


def refusal_positions(results: Iterable[Result]) -> list[int]:
    """Token at which each refusal starts, the prefill included."""
    return [r.refusal_token for r in results if r.outcome.is_refusal and r.refusal_token is not None]


def summarise_cell(results: Sequence[Result], skipped: Mapping[str, str], *, knows_form: bool = True) -> Cell:
    """All numbers of one attack on one prompt set. skipped: row id -> reason. knows_form: see `summarise_set`."""
    outcomes = Counter(result.outcome for result in results)
    n = len(results) - outcomes[Outcome.UNSCORED]
    refused = outcomes[Outcome.REFUSED] + outcomes[Outcome.MALFORMED_REFUSAL]
    return Cell(
        n=n,
        outcomes={outcome.value: outcomes[outcome] for outcome in Outcome},
        unscored=dict(Counter(r.reason for r in results if r.outcome is Outcome.UNSCORED)),
        skipped=dict(Counter(skipped.values())),
        cut_off=sum(not r.finished for r in results),
        mean_response_tokens=float(np.mean([r.response_tokens for r in results])) if results else None,
        complied=rate(outcomes[Outcome.COMPLIED], n),
        refused=rate(refused, n),
        well_formed=rate(outcomes[Outcome.REFUSED], refused) if knows_form else rate(0, 0),
        positions=position_shares(results),
        fully_safe=fully_safe(results),
        compliance=compliance_shares(results),
        score=mean_score(results),
        loops=looping(results),
        goes_on=going_on(results),
    )


def summarise_set(
    results: Iterable[Result],
    attacks: Sequence[str],
    skipped: Mapping[str, Mapping[str, str]],
    *,
    harmful: bool,
    knows_form: bool = True,
) -> SetSummary:
    """All numbers of one prompt set: per attack, and over all attacks.

    Args:
        results: the lines of this prompt set.
        attacks: in the order of the report.
        skipped: attack -> row id -> reason.
        knows_form: whether the judge tells a well-formed refusal from another one; without, that is not measured.
    """
    by_attack: dict[str, list[Result]] = {attack: [] for attack in attacks}
    for result in results:
        by_attack[result.attack].append(result)
    everything = [result for cell in by_attack.values() for result in cell]
    free = [result for result in everything if result.prefill_tokens == 0]
    return SetSummary(
        harmful=harmful,
        attacks={
            attack: summarise_cell(cell, skipped.get(attack, {}), knows_form=knows_form)
            for attack, cell in by_attack.items()
        },
        overall=_overall(by_attack, everything, skipped, knows_form=knows_form),
        positions_without_prefill=position_shares(free),
        cumulative_positions_without_prefill=_staircase(free),
    )


def _overall(
    by_attack: Mapping[str, Sequence[Result]],
    everything: Sequence[Result],
    skipped: Mapping[str, Mapping[str, str]],
    *,
    knows_form: bool,
) -> Overall:
    """Attacks weigh alike in the means, however many rows each could use."""

    def mean(counts: Callable[[Result], bool | None]) -> Rate:
        cells: dict[str, dict[str, bool]] = {}
        for attack, cell in by_attack.items():
            found = {r.id: counts(r) for r in cell if r.outcome is not Outcome.UNSCORED}
            cells[attack] = {row_id: value for row_id, value in found.items() if value is not None}
        return mean_over_attacks(cells)

    pooled = summarise_cell(everything, {}, knows_form=knows_form)
    return replace(
        Overall(**{each.name: getattr(pooled, each.name) for each in fields(pooled)}),
        skipped=dict(Counter(reason for rows in skipped.values() for reason in rows.values())),
        complied=mean(lambda result: result.outcome is Outcome.COMPLIED),
        refused=mean(lambda result: result.outcome.is_refusal),
        fully_safe=mean(lambda result: result.fully_safe),
        cumulative_positions=_staircase(everything),
    )


def _staircase(results: Sequence[Result]) -> Staircase:
    return cumulative_positions(refusal_positions(results), sum(r.outcome is not Outcome.UNSCORED for r in results))
