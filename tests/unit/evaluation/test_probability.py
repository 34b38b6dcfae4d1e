"""Numbers of given responses, each against a naive second way: one forward per token, or a sum written out; and which
token P(refusal) is measured with: the command's, else what the model was taught, else "Sorry"."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from derta.config.evaluation import EvaluateRunConfig, EvaluationConfig
from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.evaluation.attacks.build import build_attacks
from derta.evaluation.probability import given_rows, log_likelihoods, measure_given, measured_refusal_token, token_kl
from derta.evaluation.ranks import Ranks
from derta.evaluation.records import PromptSet
from derta.miniature.model import write_fresh_model
from derta.models.target import load_target
from derta.objective.refusal_token import resolve_refusal_token


@pytest.fixture(scope="module")
def other_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fresh_model(tmp_path_factory.mktemp("models") / "other", seed=1)


def after(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities [V] of what follows, in float64."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(0)


def test_log_likelihood_is_that_of_one_forward_per_token(target, harmful_rows):
    rows = harmful_rows[:2]
    found = dict(given_rows(target, rows, None, harmful=True, batch_size=2))
    for row in rows:
        cut = target.cutter.cut(row["prompt"], row["rejected"])
        stepwise = [
            float(after(target.model, [*cut.prompt, *cut.response[:t]])[token]) for t, token in enumerate(cut.response)
        ]
        assert found[row["id"]].log_p == pytest.approx(stepwise, abs=1e-4)
        assert found[row["id"]].refusal == [] and found[row["id"]].kl is None
    refusal = resolve_refusal_token(target.tokenizer, "Sorry")
    again = dict(given_rows(target, rows, refusal, harmful=True, batch_size=2))
    assert all(
        again[name].log_p == row.log_p and len(again[name].refusal) == len(row.log_p) for name, row in found.items()
    )


def test_kl_is_the_sum_over_the_vocabulary_in_float64(target, benign_rows, other_dir):
    base = load_target(ModelConfig(name_or_path=str(other_dir)), device="cpu").model
    found = dict(given_rows(target, benign_rows[:1], None, base, harmful=False, batch_size=2))
    for row in benign_rows[:1]:
        cut = target.cutter.cut(row["prompt"], row["chosen"])
        by_token = []
        for t in range(len(cut.response)):
            log_p, log_q = (after(model, [*cut.prompt, *cut.response[:t]]) for model in (target.model, base))
            by_token.append(float((log_p.exp() * (log_p - log_q)).sum()))
        assert found[row["id"]].kl == pytest.approx(sum(by_token) / len(by_token), rel=1e-4)
        assert found[row["id"]].kl > 0.01


def test_kl_weighs_with_the_tuned_model_and_does_not_depend_on_chunks():
    tuned, base = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert float(token_kl(tuned, base)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)
    assert float(token_kl(base, tuned)) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-6)
    tuned, base = torch.randn(600, 7).bfloat16(), torch.randn(600, 7).bfloat16()  # more than two chunks, in 16 bit
    whole = (tuned.double().softmax(1) * (tuned.double().log_softmax(1) - base.double().log_softmax(1))).sum(1)
    assert token_kl(tuned, base).tolist() == pytest.approx(whole.tolist(), abs=1e-5)


def test_log_likelihoods_stand_behind_each_depth_and_look_64_tokens_ahead():
    found = log_likelihoods([[-1.0, -2.0, -3.0], [-4.0]], {2, 5})
    assert list(found) == ["0", "2", "5"]
    assert (found["0"].mean, found["0"].n) == (-3.0, 2)  # of -2 and -4
    assert (found["2"].mean, found["2"].low, found["2"].n) == (-3.0, -3.0, 1)
    assert (found["5"].mean, found["5"].n) == (None, 0)
    long = log_likelihoods([[-1.0] * 64 + [-9.0] * 6], {60, 64})
    assert [round(each.mean, 6) for each in long.values()] == [-1.0, -(4 * 1 + 6 * 9) / 10, -9.0]


def test_sets_of_both_kinds_in_one_pass(target, model_dir, other_dir, harmful_rows, benign_rows, byte_level, tmp_path):
    sets = [
        PromptSet("harmful", True, harmful_rows, ("direct", "prefill_5", "prefill_900"), ""),
        PromptSet("benign", False, benign_rows, ("direct",), ""),
    ]
    attacks = build_attacks(sets[0].attacks)

    def measured(base: Path | None, **eval: Any) -> Any:
        asked = EvaluationConfig(base_model=None if base is None else str(base), **eval)
        config = EvaluateRunConfig(model=ModelConfig(name_or_path=str(model_dir)), eval=asked)
        refusal = resolve_refusal_token(target.tokenizer, "Sorry") if asked.probability else None
        return measure_given(sets, attacks, target, Ranks(), config, refusal)

    found = measured(other_dir)
    assert {depth: each.n for depth, each in found.log_likelihood["harmful"].items()} == {"0": 6, "5": 6, "900": 0}
    assert found.kl_to_base["benign"].n == 6 and found.kl_to_base["benign"].low > 0
    assert found.kl_to_base["harmful"].mean is None and "benign" not in found.log_likelihood
    assert found.probability is not None and list(found.probability.sets) == ["harmful", "benign"]
    alone = measured(model_dir, probability=False)  # KL alone, and to itself
    assert alone.probability is None and alone.log_likelihood == {}
    assert (alone.kl_to_base["benign"].mean, list(alone.kl_to_base)) == (0.0, ["benign"])
    assert measured(None, probability=False) == replace(alone, kl_to_base={})
    byte_level(("<a>",), "x", bos=None, eos="<a>").save_pretrained(tmp_path)
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((model_dir / file).read_bytes())
    with pytest.raises(InputError, match=r"eval.base_model=.* has other tokens"):
        measured(tmp_path)
    with pytest.raises(InputError, match="^eval.base_model="):
        measured(tmp_path / "nowhere")


@pytest.fixture
def asked(llama3_tokenizer: Any, tiny_model: Any, tmp_path: Path) -> Any:
    tiny_model("llama", len(llama3_tokenizer)).save_pretrained(tmp_path / "model")
    llama3_tokenizer.save_pretrained(tmp_path / "model")

    def make(**settings: Any) -> EvaluateRunConfig:
        model = ModelConfig(name_or_path=str(tmp_path / "model"))
        return EvaluateRunConfig(model=model, eval=EvaluationConfig(**settings))

    return make


def test_what_the_model_was_taught_counts_unless_the_command_says_otherwise(asked, llama3_tokenizer):
    assert measured_refusal_token(asked()) == resolve_refusal_token(llama3_tokenizer, "Sorry")
    taught = resolve_refusal_token(llama3_tokenizer, token_ids=[17, 18])
    file = Path(asked().model.name_or_path) / "derta_config.json"
    file.write_text(json.dumps({"refusal_token": taught.to_dict()}))
    assert measured_refusal_token(asked()) == taught
    assert measured_refusal_token(asked(refusal_text="Sure")) == resolve_refusal_token(llama3_tokenizer, "Sure")
    assert measured_refusal_token(asked(refusal_token_ids=[5])).ids == (5,)
    assert measured_refusal_token(asked(probability=False)) is None
    with pytest.raises(InputError, match=r"eval.refusal_token_ids=\[99999\]"):
        measured_refusal_token(asked(refusal_token_ids=[99999]))
    file.write_text(json.dumps({"refusal_token": None}))
    assert measured_refusal_token(asked()) == resolve_refusal_token(llama3_tokenizer, "Sorry")


def test_a_text_that_cannot_be_used_is_said_and_measured_by_nobody(asked, caplog):
    assert measured_refusal_token(asked(refusal_text="I cannot")) is None
    assert "P(refusal) is not measured: eval.refusal_text='I cannot'" in caplog.text
    assert "objective.refusal_text" not in caplog.text


def test_a_damaged_record_of_the_model_is_named(asked):
    file = Path(asked().model.name_or_path) / "derta_config.json"
    for content in ("[1]", "{", '{"refusal_token": {"text": "Sorry"}}'):
        file.write_text(content)
        with pytest.raises(InputError, match="derta_config.json"):
            measured_refusal_token(asked())
