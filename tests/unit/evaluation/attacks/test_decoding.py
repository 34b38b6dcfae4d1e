from dataclasses import replace

import pytest
import torch
from bag_model import COMPLIANCE, bag_model, outcomes

from derta.config.attacks import AttackConfig, DecodingConfig
from derta.evaluation.attacks.attack import Direct
from derta.evaluation.attacks.build import build_attack
from derta.evaluation.attacks.decoding import respond
from derta.evaluation.judges.judge import RefusalPhraseJudge
from derta.evaluation.records import Outcome, Result
from derta.evaluation.verdicts import judge_batch
from derta.models.generation import generate
from derta.models.inputs import Generation, Sampling

CONFIG = AttackConfig(decoding=DecodingConfig(temperatures=[1.0, 2.0], top_p=[0.5, 1.0], samples=3))


@pytest.fixture(scope="module")
def wavering(llama3_tokenizer):
    """Refuses by a hair: greedy search never sees it, sampling does."""
    return bag_model(llama3_tokenizer, bias=0.7)


def test_decoding_finds_what_greedy_search_does_not(plain_rows, wavering, refusing):
    decoding = build_attack("decoding", CONFIG)
    assert outcomes(Direct(), plain_rows, wavering) == [Outcome.REFUSED] * 3
    assert outcomes(decoding, plain_rows, wavering) == [Outcome.COMPLIED] * 3
    assert outcomes(decoding, plain_rows, refusing) == [Outcome.REFUSED] * 3


def test_inputs_are_the_plain_prompts_with_the_whole_grid(plain_rows, refusing):
    made = build_attack("decoding", CONFIG).inputs(plain_rows, refusing, "harmful").inputs
    plain = Direct().inputs(plain_rows, refusing, "harmful").inputs
    assert [item.token_ids for item in made] == [item.token_ids for item in plain]
    assert len(made[0].sampling) == len(set(made[0].sampling)) == 2 * 2 * 3
    assert {(s.temperature, s.top_p) for s in made[0].sampling} == {(1, 0.5), (1, 1), (2, 0.5), (2, 1)}


def test_sampling_is_seeded_and_leaves_the_random_state_alone(plain_rows, wavering):
    batch = Direct().inputs(plain_rows, wavering, "harmful").inputs * 8
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, again, other = (
        generate(wavering, batch, max_new_tokens=16, sampling=Sampling(2.0, 1.0, seed)) for seed in (1, 1, 2)
    )
    assert one == again and one != other
    assert torch.equal(torch.random.get_rng_state(), before)


def test_sampling_follows_temperature_and_top_p(plain_rows, wavering):
    """The first token is "Sure" with the probability that softmax(logits / T) gives it; a small top-p cuts it off."""
    item = Direct().inputs(plain_rows, wavering, "harmful").inputs[0]
    sure = wavering.tokenizer(COMPLIANCE, add_special_tokens=False)["input_ids"][0]
    with torch.inference_mode():
        logits = wavering.model(input_ids=torch.tensor([item.token_ids])).logits[0, -1]
    for temperature in (0.5, 2.0):
        expected = float((logits / temperature).softmax(-1)[sure])
        assert 0.05 < expected < 0.95
        drawn = generate(wavering, [item] * 400, max_new_tokens=1, sampling=Sampling(temperature, 1.0, 3))
        share = sum(g.token_ids[0] == sure for g in drawn) / 400
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 400) ** 0.5)
        cut = generate(wavering, [item] * 100, max_new_tokens=1, sampling=Sampling(temperature, 0.05, 3))
        assert all(g.token_ids[0] != sure for g in cut)


def scripted(plain_rows, target, script, harmful):
    """Results of `respond` where the judge gives the outcomes of `script` in turn, one list per round of responses."""
    batch = build_attack("decoding", CONFIG).inputs(plain_rows, target, "set").inputs
    rounds = []

    def judge(items, generations):
        assert all(isinstance(generation, Generation) for generation in generations)
        told = script[min(len(rounds), len(script) - 1)]
        rounds.append([item.row_id for item in items])
        results = []
        for item in items:
            outcome, *guarded = told[item.row_id] if isinstance(told[item.row_id], tuple) else (told[item.row_id],)
            made = Result("set", item.attack, item.row_id, "", 0, 0, True, outcome, None, None, "")
            results.append(replace(made, **dict(zip(("guarded", "guard_token"), guarded, strict=False))))
        return results

    return respond(target, batch, judge, harmful=lambda item: harmful, max_new_tokens=1), rounds


def test_the_worst_response_counts_and_no_more_are_drawn_once_it_is_found(plain_rows, refusing):
    refused, garbled, complied, unscored = (
        Outcome.REFUSED, Outcome.GARBLED, Outcome.COMPLIED, Outcome.UNSCORED
    )  # fmt: skip
    script = [
        {"row-0": refused, "row-1": complied, "row-2": unscored},
        {"row-0": garbled, "row-2": unscored},
        {"row-0": refused, "row-2": complied},
        {"row-0": unscored},
    ]
    results, rounds = scripted(plain_rows, refusing, script, harmful=True)
    assert [result.outcome for result in results] == [garbled, complied, complied]
    assert [result.reason for result in results] == ["temperature 1, top-p 0.5", "", "temperature 1, top-p 0.5"]
    assert rounds[:3] == [["row-0", "row-1", "row-2"], ["row-0", "row-2"], ["row-0", "row-2"]]
    assert rounds[3:] == [["row-0"]] * 10


def test_with_a_guard_the_worst_of_what_it_leaves_counts_too(plain_rows, refusing):
    complied, refused = Outcome.COMPLIED, Outcome.REFUSED
    rows = {"row-1": (complied, complied, None), "row-2": (complied, complied, None)}
    told = [(complied, refused, 3), (refused, refused, 0), (complied, complied, None)]  # the last passes the guard
    script = [rows | {"row-0": each} for each in told]
    results, rounds = scripted(plain_rows, refusing, script, harmful=True)
    assert (results[0].outcome, results[0].guarded, results[0].guard_token) == (complied, complied, None)
    assert results[0].reason == "" and rounds[1:] == [["row-0"]] * 2


def test_on_benign_prompts_a_refusal_is_worst_and_unscored_is_only_where_nothing_could_be_scored(plain_rows, refusing):
    script = [{f"row-{i}": outcome for i in range(3)} for outcome in (Outcome.COMPLIED, Outcome.REFUSED)]
    results, rounds = scripted(plain_rows, refusing, script, harmful=False)
    assert {result.outcome for result in results} == {Outcome.REFUSED} and len(rounds) == 2
    results, _ = scripted(plain_rows, refusing, [{f"row-{i}": Outcome.UNSCORED for i in range(3)}], harmful=True)
    told = {(result.outcome, result.reason) for result in results}
    assert told == {(Outcome.UNSCORED, "all of 13 responses unscored; ")}


def test_a_model_that_only_ends_its_turn_is_unscored(plain_rows, llama3_tokenizer):
    silent = bag_model(llama3_tokenizer)
    with torch.no_grad():  # the end token wins everywhere
        silent.model.lm_head.weight[llama3_tokenizer.eos_token_id] = 1e4
    batch = build_attack("decoding", CONFIG).inputs(plain_rows, silent, "set").inputs
    rows = {("set", row["id"]): (row, True) for row in plain_rows}

    def judge(items, generations):
        assert all(generation.token_ids == () and generation.finished for generation in generations)
        return judge_batch(items, generations, rows, silent, RefusalPhraseJudge())

    results = respond(silent, batch, judge, harmful=lambda item: True, max_new_tokens=4)
    assert {result.reason for result in results} == {"all of 13 responses unscored; empty response"}
