from dataclasses import replace

import pytest
import torch

from derta.evaluation.probability import given_rows
from derta.objective.refusal_probability import curve_by_position, read_pass, response_logits, separation
from derta.objective.refusal_token import resolve_refusal_token
from derta.statistics.auroc import Auroc
from derta.statistics.positions import Curve
from derta.statistics.rates import wilson


def row_curves(target, rows, refusal, **settings):
    return {row_id: row.refusal for row_id, row in given_rows(target, rows, refusal, **settings)}


def refusal_probabilities(target, cuts, refusal):
    passes = zip(cuts, response_logits(target.model, cuts, target.pad_token_id), strict=True)
    return [read_pass(cut, logits, refusal)[1] for cut, logits in passes]


def step_by_step(target, cut, refusal):
    """P(refusal) scored with one forward per position, nothing shared with the code under test."""
    scores = []
    for t in range(len(cut.response)):
        with torch.inference_mode():
            logits = target.model(input_ids=torch.tensor([[*cut.prompt, *cut.response[:t]]])).logits[0, -1]
        probabilities = torch.softmax(logits.double(), 0)
        scores.append(float(probabilities[refusal.start_id] + probabilities[refusal.continued_id]))
    return scores


def test_one_forward_equals_step_by_step_scoring(target, harmful_rows):
    refusal = resolve_refusal_token(target.tokenizer, "Sorry")
    assert refusal.start_id != refusal.continued_id
    cuts = [target.cutter.cut(row["prompt"], row["rejected"]) for row in harmful_rows[:3]]
    assert len({len(cut.prompt) for cut in cuts}) > 1  # rows of different lengths share the batch
    curves = refusal_probabilities(target, cuts, refusal)
    for cut, curve in zip(cuts, curves, strict=True):
        expected = step_by_step(target, cut, refusal)
        assert len(curve) == len(cut.response)
        assert curve == pytest.approx(expected, rel=1e-5)
    one_form = replace(refusal, continued_id=refusal.start_id)
    alone = refusal_probabilities(target, cuts, one_form)
    other = refusal_probabilities(target, cuts, replace(refusal, start_id=refusal.continued_id))
    for both, *parts in zip(curves, alone, other, strict=True):
        assert both == pytest.approx([sum(forms) for forms in zip(*parts, strict=True)])


def test_curves_do_not_depend_on_the_batch_and_use_the_response_of_their_side(target, harmful_rows, benign_rows):
    refusal = resolve_refusal_token(target.tokenizer, "Sorry")
    alone = row_curves(target, harmful_rows, refusal, harmful=True, batch_size=1)
    together = row_curves(target, harmful_rows, refusal, harmful=True, batch_size=4)
    assert set(alone) == set(together) == {row["id"] for row in harmful_rows}
    for row in harmful_rows:
        assert together[row["id"]] == pytest.approx(alone[row["id"]], rel=1e-4)
        assert len(alone[row["id"]]) == len(target.cutter.cut(row["prompt"], row["rejected"]).response)
    assert row_curves(target, benign_rows, refusal, harmful=True, batch_size=4) == {}
    assert len(row_curves(target, benign_rows, refusal, harmful=False, batch_size=4)) == len(benign_rows)


def test_curve_counts_only_the_rows_that_reach_a_position():
    curve = curve_by_position([[0.2, 0.4, 0.9], [0.4]])
    assert curve.mean == pytest.approx([0.3, 0.4, 0.9])
    assert curve.count == [2, 1, 1]
    assert curve_by_position([]) == Curve([], [], [], [])


def test_separation_per_stretch_of_the_response():
    harmful = [[0.1] + [0.9] * 5 + [0.2]]
    benign = [[0.2] + [0.3] * 5 + [0.2]]
    found = separation(harmful, benign)
    assert found["0"] == Auroc(0.0, *wilson(0, 1), 1, 1)
    assert found["1-5"] == Auroc(1.0, *wilson(1, 1), 5, 5)  # one row a side, not five
    assert found["6-30"].auroc == 0.5
    assert found[">30"] == Auroc(None, None, None, 0, 0)
    assert found["all"].n_harmful == 7


def test_curves_end_where_the_context_does(target, harmful_rows, monkeypatch):
    refusal = resolve_refusal_token(target.tokenizer, "Sorry")
    cut = target.cutter.cut(harmful_rows[0]["prompt"], harmful_rows[0]["rejected"])
    whole = row_curves(target, harmful_rows[:1], refusal, harmful=True, batch_size=1)[harmful_rows[0]["id"]]
    monkeypatch.setattr(target.model.config, "max_position_embeddings", len(cut.prompt) + 10)
    curves = row_curves(target, harmful_rows[:1], refusal, harmful=True, batch_size=1)
    assert curves[harmful_rows[0]["id"]] == pytest.approx(whole[:10], rel=1e-5)
    monkeypatch.setattr(target.model.config, "max_position_embeddings", len(cut.prompt))
    assert row_curves(target, harmful_rows[:1], refusal, harmful=True, batch_size=1) == {}
