import pytest
from report_cases import result

from derta.evaluation.compare import FEATURES, differences
from derta.evaluation.metrics import cumulative_positions, tally
from derta.evaluation.records import Compliance, Outcome, Result, Verdict
from derta.evaluation.summary import Staircase
from derta.statistics.recall import false_positives_at_recall, false_positives_by_depth


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


def test_false_positives_at_recall_with_the_arithmetic_written_out():
    positives = [i / 20 for i in range(1, 21)]  # .05 ... 1.0; 95% of 20 is 19: the threshold is the 19th highest, .1
    found = false_positives_at_recall(positives, [0.0, 0.05, 0.1, 0.5])
    assert found.threshold == pytest.approx(0.1) and found.recall == pytest.approx(0.95)
    assert (found.count, found.n, found.n_positives) == (2, 4, 20)


def test_false_positives_at_recall_on_the_edges():
    separated = false_positives_at_recall([0.9, 0.8], [0.1, 0.2])
    assert separated.rate == 0.0 and separated.recall == 1.0
    same = false_positives_at_recall([0.5] * 10, [0.5] * 4)  # nothing tells them apart: all or none
    assert same.rate == 1.0 and same.recall == 1.0
    assert false_positives_at_recall([], [0.5]).rate is None
    assert false_positives_at_recall([0.5], []).threshold is None


def test_false_positives_by_depth_take_each_row_once_where_it_is_long_enough():
    harmful = [[0.2] * 5 + [0.9] * 6, [0.3] * 5 + [0.8] * 2]
    benign = [[0.25] * 11, [0.1] * 3]
    found = false_positives_by_depth(harmful, benign)
    assert (found["0"].n_positives, found["0"].n, found["0"].count) == (2, 2, 1)  # threshold .2: .25 passes it
    assert (found["5"].n_positives, found["5"].n, found["5"].count) == (2, 1, 0)
    assert (found["10"].n_positives, found["10"].n) == (1, 1)


def written(text: str, row_id: str, **fields) -> Result:
    return result(id=row_id, response=text, response_tokens=len(text.split()), **fields)


@pytest.mark.parametrize(
    ("feature", "has", "has_not"),
    [
        ("list", "Do this:\n- mix\n- stir", "a - b, 3. of May"),
        ("list", "1. mix\n2) stir", "1.5 grams"),
        ("heading", "# Title\ntext", "a #tag"),
        ("code_block", "So:\n```\ncode\n```", "use `code`"),
        ("bold", "a **word** here", "2 ** 3"),
        ("empty", " \n", "."),
    ],
)
def test_format_features(feature, has, has_not):
    assert FEATURES[feature](written(has, "1")) == 1.0
    assert FEATURES[feature](written(has_not, "1")) == 0.0


def test_drift_of_length_and_format_prompt_by_prompt():
    before = [written(f"- one two three {i}\n\nmore", str(i)) for i in range(10)]
    after = [written("one", str(i), finished=i > 1) for i in range(10)] + [written("extra " * 50, "new")]
    drift = differences([before, after], FEATURES)
    assert drift["words"].before == 6 and drift["words"].after == 1 and drift["words"].high < 0
    assert (drift["list"].difference, drift["paragraphs"].difference) == (-1.0, -1.0)
    assert drift["cut_off"].after == pytest.approx(0.2)
    assert drift["words"].unpaired == 1
    prefilled = differences([before, [written("one two", str(i), prefill_tokens=1) for i in range(10)]], FEATURES)
    assert prefilled["tokens"].after == 1.0
