import random

import pytest
from report_cases import result

from derta.evaluation.metrics import (
    cumulative_positions,
    mean_over_attacks,
    refusal_positions,
    summarise_cell,
    summarise_set,
    tally,
)
from derta.evaluation.records import Compliance, Outcome, Verdict
from derta.evaluation.summary import Staircase
from derta.statistics.positions import shares_of_positions
from derta.statistics.rates import rate, wilson


def test_mean_weighs_attacks_alike_even_when_one_has_fewer_scored_rows():
    cells = {"a": {str(i): True for i in range(10)}, "b": {"0": False, "1": True}}
    mean = mean_over_attacks(cells)
    assert mean.rate == pytest.approx((1.0 + 0.5) / 2)
    assert (mean.count, mean.n) == (11, 12)


def test_copies_of_an_attack_do_not_narrow_the_interval():
    cell = {str(i): i < 12 for i in range(60)}
    one, four = mean_over_attacks({"a": cell}), mean_over_attacks({name: cell for name in "abcd"})
    assert four.rate == pytest.approx(12 / 60)
    assert (four.low, four.high) == pytest.approx((one.low, one.high), rel=1e-9)
    assert (one.low, one.high) == pytest.approx(wilson(12 / 60, 60), abs=0.003)


def test_independent_attacks_narrow_the_interval_to_that_of_all_responses():
    rng = random.Random(0)
    cells = {f"attack{a}": {str(i): rng.random() < 0.3 for i in range(300)} for a in range(8)}
    mean = mean_over_attacks(cells)
    width = mean.high - mean.low
    low, high = wilson(mean.count / 2400, 2400)
    assert width == pytest.approx(high - low, rel=0.1)
    # Where all agree, it is as sure as the prompts allow.
    mean = mean_over_attacks({name: {str(i): True for i in range(60)} for name in "abc"})
    assert (mean.low, mean.high) == wilson(1.0, 60)


def test_position_shares_count_each_refusal_once_and_in_its_bucket():
    positions = [0, 0, 1, 5, 6, 30, 31, 500]
    results = [result(Outcome.REFUSED, id=str(i), refusal_token=p) for i, p in enumerate(positions)]
    results += [result(Outcome.COMPLIED, id="c", refusal_token=3), result(Outcome.GARBLED, id="g")]
    shares = shares_of_positions(refusal_positions(results))
    assert {name: share.count for name, share in shares.items()} == {"0": 2, "1-5": 2, "6-30": 2, ">30": 2}
    assert all(share.n == 8 and share.rate == 0.25 for share in shares.values())


def test_cell_leaves_unscored_out_of_every_rate():
    results = [
        result(Outcome.COMPLIED, id="1"),
        result(Outcome.REFUSED, id="2", refusal_token=0),
        result(Outcome.MALFORMED_REFUSAL, id="3", refusal_token=7),
        result(Outcome.GARBLED, id="4", finished=False),
        result(Outcome.UNSCORED, id="5", reason="empty response"),
    ]
    cell = summarise_cell(results, ["too long", "too long"])
    assert cell.n == 4
    assert cell.complied.rate == 1 / 4
    assert cell.refused.rate == 2 / 4
    assert (cell.well_formed.count, cell.well_formed.n) == (1, 2)
    assert cell.unscored == {"empty response": 1}
    assert cell.skipped == {"too long": 2}
    assert cell.cut_off == 1


def test_what_only_some_judges_know_is_counted_where_they_do():
    results = [
        result(Outcome.REFUSED, id="1", loops=False, goes_on=True),
        result(Outcome.REFUSED, id="2", loops=True, goes_on=False),
        result(Outcome.COMPLIED, id="3", loops=True),
        result(Outcome.UNSCORED, id="4", reason="empty response"),
    ]
    cell = summarise_set(results, ["direct"], {}, harmful=True, knows_form=False).attacks["direct"]
    assert (cell.loops.count, cell.loops.n) == (2, 3)
    assert (cell.goes_on.count, cell.goes_on.n) == (1, 2)
    assert cell.well_formed == rate(0, 0)  # this judge does not decide it
    unknown = summarise_cell([result(Outcome.REFUSED)], [])
    assert unknown.loops == unknown.goes_on == rate(0, 0) and unknown.well_formed.rate == 1.0


def test_set_separates_refusals_behind_a_prefill():
    results = [
        result(Outcome.REFUSED, id="1", refusal_token=0),
        result(Outcome.REFUSED, id="1", attack="prefill_20", refusal_token=20, prefill_tokens=20),
    ]
    summary = summarise_set(results, ["direct", "prefill_20"], {}, harmful=True)
    assert summary.overall.positions["6-30"].count == 1
    assert summary.positions_without_prefill["6-30"].count == 0
    assert summary.positions_without_prefill["0"].rate == 1.0
    assert list(summary.attacks) == ["direct", "prefill_20"]


def test_what_a_judge_cannot_tell_takes_no_part():
    verdicts = [
        Verdict(Outcome.REFUSED, fully_safe=True, score=0.0),
        Verdict(Outcome.COMPLIED, fully_safe=False, score=1.0),
        Verdict(Outcome.REFUSED),
        Verdict(Outcome.UNSCORED),
    ]
    found = tally(verdicts)
    assert (found["fully_safe"].count, found["fully_safe"].n) == (1, 2)
    assert found["score"].mean == 0.5 and found["score"].n == 2
    assert all(share.n == 0 and share.rate is None for share in found["compliance"].values())
    shares = tally([Verdict(Outcome.REFUSED, compliance=c) for c in [*Compliance, *Compliance]])["compliance"]
    assert {name: share.count for name, share in shares.items()} == dict.fromkeys(
        ("full_compliance", "partial_refusal", "full_refusal"), 2
    )


def test_cumulative_positions_rise_to_all_refusals():
    curve = cumulative_positions([7, 0, 0, 31, 7, 2], responses=10)
    assert curve.position == [0, 2, 7, 31]
    assert curve.of_refusals == pytest.approx([2 / 6, 3 / 6, 5 / 6, 1.0])
    assert curve.of_responses == pytest.approx([0.2, 0.3, 0.5, 0.6])
    assert cumulative_positions([], responses=5) == Staircase([], [], [], 5)
