import re

import pytest
from report_cases import result, summarised, write_evaluation

from derta.errors import InputError
from derta.evaluation.compare import FEATURES, compare_evaluations, describe_comparison, differences
from derta.evaluation.records import Outcome, Result


def squeezed(table):
    return re.sub(" +", " ", table)


def evaluation(folder, outcomes, words, **changes):
    """outcomes: of the prompts under one attack, or attack -> those. changes: of its identity."""
    by_attack = outcomes if isinstance(outcomes, dict) else {"direct": outcomes}
    lines = [
        result(outcome, attack=attack, id=str(i), response="word " * words)
        for attack, found in by_attack.items()
        for i, outcome in enumerate(found)
    ]
    return write_evaluation(folder, summarised(lines, folder.name, **changes), lines)


def test_two_checkpoints_prompt_by_prompt(tmp_path):
    before = evaluation(tmp_path / "vanilla", [Outcome.COMPLIED] * 30 + [Outcome.REFUSED] * 10, 20)
    after = evaluation(tmp_path / "derta", [Outcome.COMPLIED] * 10 + [Outcome.REFUSED] * 28 + [Outcome.UNSCORED] * 2, 8)
    compared = compare_evaluations(before, after)
    found = compared.sets["harmful"]
    complied = found.measures["complied"]
    assert (complied.n, complied.unpaired) == (38, 2)  # what one of them could not score has no counterpart
    assert complied.difference == pytest.approx(10 / 38 - 30 / 38)
    assert complied.low < complied.difference < complied.high < 0
    assert found.drift["words"].difference == -12
    assert found.measures["fully_safe"].n == 0
    table = describe_comparison(compared)
    assert "| harmful, attack success | 78.9% | 26.3% | -52.6 [" in squeezed(table) and "fully safe" not in table
    assert compare_evaluations(before, after) == compared


def test_attacks_are_told_apart(tmp_path):
    """One attack is stopped, the other is not: in their mean it looks like half of either."""
    outcomes = {"direct": [Outcome.COMPLIED] * 20, "code": [Outcome.COMPLIED] * 20}
    before = evaluation(tmp_path / "before", outcomes, 5)
    after = evaluation(tmp_path / "after", outcomes | {"direct": [Outcome.REFUSED] * 20}, 5)
    found = compare_evaluations(before, after)
    attacks = found.sets["harmful"].attacks
    assert {name: numbers["complied"].difference for name, numbers in attacks.items()} == {"direct": -1.0, "code": 0.0}
    table = squeezed(describe_comparison(found))
    assert "| harmful, attack success (mean of 2) | 100.0% | 50.0% | -50.0 [-50.0, -50.0] | 40 |" in table
    assert "| harmful, attack success, direct | 100.0% | 0.0% | -100.0 [-100.0, -100.0] | 20 |" in table
    assert "| harmful, refused, code | 0.0% | 0.0% | +0.0 [+0.0, +0.0] | 20 |" in table
    assert not compare_evaluations(before, before).sets["harmful"].attacks["code"]["complied"].difference


def test_other_prompts_or_another_judge_cannot_be_compared(tmp_path):
    before = evaluation(tmp_path / "a", [Outcome.REFUSED] * 4, 3)
    after = evaluation(tmp_path / "b", [Outcome.REFUSED] * 4, 3, data="d" * 64, judge="rubric 1")
    with pytest.raises(InputError) as error:
        compare_evaluations(before, after)
    assert "set harmful has other prompts" in str(error.value) and "judge: miniature before" in str(error.value)
    other = evaluation(tmp_path / "c", [Outcome.REFUSED] * 4, 3, sets={})
    with pytest.raises(InputError, match="no prompt set in common"):
        compare_evaluations(before, other)


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
