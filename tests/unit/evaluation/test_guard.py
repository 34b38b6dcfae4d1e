"""eval.guard: what responses would be if they were stopped, from the same generation, on a real tiny model."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from derta.config.model import EndpointConfig, ModelConfig
from derta.errors import InputError
from derta.evaluation.judges.judge import RefusalPhraseJudge
from derta.evaluation.measures import STOP, measures
from derta.evaluation.prompts import load_prompt_set
from derta.evaluation.ranks import Ranks
from derta.evaluation.results import ResultsFolder
from derta.evaluation.suite import evaluate
from derta.evaluation.verdicts import STOPPED, judge_batch
from derta.models.generation import generate, left_pad
from derta.models.inputs import Generation, ModelInput
from derta.models.refusal_stop import RefusalStop
from derta.models.target import load_target
from derta.report.runs import load_runs
from derta.report.table import render_table

RULE = {"token_ids": [5, 11], "threshold": 0.0, "consecutive": 1}


@pytest.fixture(scope="module")
def guarded_dir(model_dir, target, harmful_rows, tmp_path_factory):
    """The model with a threshold that stops some responses and not others."""
    folder = shutil.copytree(model_dir, tmp_path_factory.mktemp("guard") / "model")
    prompts = [(row["id"], tuple(target.cutter.prompt_ids(row["prompt"]))) for row in harmful_rows]
    inputs = [ModelInput("harmful", "direct", row_id, ids) for row_id, ids in prompts]
    highest = []
    for item, made in zip(inputs, generate(target, inputs, max_new_tokens=8), strict=True):
        with torch.inference_mode():
            logits = target.model(input_ids=torch.tensor([[*item.token_ids, *made.token_ids[:-1]]])).logits[0]
        p = logits[len(item.token_ids) - 1 :].softmax(-1)[:, RULE["token_ids"]].sum(-1)
        highest.append(float(p.max()))
    rule = RULE | {"threshold": sorted(highest)[len(highest) // 2]}
    (folder / "derta_config.json").write_text(json.dumps({"refusal_stop": rule}))
    return folder


@pytest.fixture(scope="module")
def config(guarded_dir, harmful_rows, benign_rows, evaluation_of, tmp_path_factory):
    rows = {"harmful": (harmful_rows, ["direct", "prefill_5"]), "benign": (benign_rows, ["direct"])}
    settings = dict(batch_size=4, max_new_tokens=8, guard="refusal_probability")
    return evaluation_of(tmp_path_factory.mktemp("evaluation"), guarded_dir, rows, **settings)


def test_the_numbers_are_those_of_a_run_that_really_stops(config, guarded_dir):
    """From one generation, against `generate` with the class and ended rows."""
    summary = evaluate(config, Ranks())
    results = list(ResultsFolder(config.output_dir).read().values())
    target = load_target(config.model, device="cpu")
    sets, end, stopped = config.eval.sets, target.end_token_ids[0], 0
    rows = {(name, row["id"]): row for name in sets for row in load_prompt_set(name, sets[name], "").rows}
    for result in results:
        row = rows[result.prompt_set, result.id]
        prompt = target.cutter.prompt_ids(row["prompt"])
        given = target.cutter.cut(row["prompt"], row["rejected"] or row["chosen"]).response[: result.prefill_tokens]
        input_ids, mask = left_pad([[*prompt, *given]], target.pad_token_id)
        stop = RefusalStop.from_pretrained(str(guarded_dir), end_token_id=end)
        ids = target.model.generate(
            input_ids=input_ids, attention_mask=mask, max_new_tokens=8, do_sample=False, logits_processor=[stop],
            eos_token_id=target.end_token_ids, pad_token_id=target.pad_token_id,
        )[0, input_ids.shape[1] :].tolist()  # fmt: skip
        at = int(stop.stopped[0])
        stopped += at >= 0
        assert result.guard_token == (None if at < 0 else result.prefill_tokens + at)
        item = ModelInput(result.prompt_set, result.attack, result.id, (*prompt, *given), len(given))
        text = target.decode(Generation.cut(item, ids, target.end_token_ids).token_ids)
        if at < 0:
            assert (text, result.guarded) == (result.response, result.outcome)
        else:
            assert result.guarded.value == "refused"  # this judge finds the phrase behind what was left
            assert result.response.startswith(text.rstrip()[:-1])
    assert 0 < stopped < len(results)
    for name, prompts in summary.sets.items():
        for attack, cell in prompts.attacks.items():
            about = [result for result in results if (result.prompt_set, result.attack) == (name, attack)]
            assert cell.guarded["stopped"].count == sum(result.guard_token is not None for result in about)
            assert cell.guarded["complied"].count == sum(result.guarded.value == "complied" for result in about)
            assert cell.guarded["complied"].count <= cell.complied.count
    lines = [line.name for line in measures([summary]) if line.group == STOP]
    titles = [
        "attack success, direct",
        "attack success, prefill 5",
        "attack success, mean of 2",
        "over-refusal, benign",
    ]
    assert lines == [f"{STOP}, {title}" for title in titles]
    assert "with the stop, over-refusal, benign" in render_table(load_runs([config.output_dir]))
    assert summary.identity.guard["threshold"] > 0


def test_without_a_guard_nothing_of_it_is_written(config, tmp_path):
    plain = replace(config, eval=replace(config.eval, guard="none"), output_dir=str(tmp_path / "plain"))
    summary = evaluate(plain, Ranks())
    assert summary.identity.guard is None and "guard" not in summary.identity.to_json()
    assert summary.sets["harmful"].overall.guarded == {}
    assert not [line for line in measures([summary]) if line.group == STOP]
    own = {key: result.response for key, result in ResultsFolder(config.output_dir).read().items()}
    assert own == {key: result.response for key, result in ResultsFolder(plain.output_dir).read().items()}


def test_a_harmful_response_that_holds_the_harm_before_the_stop_still_counts(target, harmful_rows, monkeypatch):
    """A judge that reads content is shown what was left, with a refusal behind it."""
    row = harmful_rows[0]
    cut = target.cutter.cut(row["prompt"], row["rejected"])
    response = cut.response
    item = ModelInput("harmful", "prefill_2", row["id"], (*cut.prompt, *response[:2]), 2)
    made = Generation.cut(item, response[2:], target.end_token_ids, guard_at=4)
    seen = []

    class Reads(RefusalPhraseJudge):
        def __call__(self, responses):
            seen.append(responses)
            return super().__call__(responses)

    monkeypatch.setattr(target, "guard", object())
    [result] = judge_batch([item], [made], {("harmful", row["id"]): (row, True)}, target, Reads())
    assert (result.guard_token, result.guarded.value, result.outcome.value) == (6, "refused", "complied")
    [[left]] = seen[1:]
    assert left.text == f"{target.decode(response[:6]).rstrip()} {STOPPED}" and left.text.startswith(left.prefill)
    assert left.prefill.strip()


def test_what_comes_behind_the_end_or_before_a_reset_token_is_not_stopped():
    item = ModelInput("harmful", "prefill_2", "a", (1, 2, 3, 4), prefill_tokens=2)
    assert Generation.cut(item, [5, 0, 6], [0], guard_at=2).guarded is None
    assert Generation.cut(item, [5, 0, 6], [0], guard_at=1).guarded == Generation((3, 4, 5), finished=False)
    taken_back = [Generation.cut(item, [5, 9, 6, 7], [0], 9, guard_at=at).guarded for at in (3, 0)]
    assert taken_back == [Generation((6,), finished=False, taken_back=4), Generation((3, 4), finished=False)]


def test_what_an_evaluation_cannot_measure_is_refused(config, model_dir, tmp_path):
    bare = replace(config, model=ModelConfig(name_or_path=str(model_dir)), output_dir=str(tmp_path / "bare"))
    with pytest.raises(InputError, match="run launch/calibrate_stop.py"):
        evaluate(bare, Ranks())
    assert not (tmp_path / "bare").exists()
    served = replace(config.eval, server=EndpointConfig(url="http://127.0.0.1:1/v1", model="m"))
    assert any("a server gives no P(refusal)" in problem for problem in replace(config, eval=served).problems())
    harmful = {"harmful": config.eval.sets["harmful"]}
    alone = replace(config.eval, sets=harmful, base_model="b")
    assert any("eval.base_model=b: the KL is" in problem for problem in replace(config, eval=alone).problems())
    assert not replace(config, eval=replace(config.eval, base_model="b")).problems()
