"""The probe: its numbers by hand, the same as the evaluation's, and no trace of it in what is trained."""

import copy
import json
import logging
import math
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from derta.config import DataConfig, ProbeConfig, TrainerConfig, TrainRunConfig
from derta.errors import InputError
from derta.evaluation.probability import given_rows
from derta.models.target import TargetModel
from derta.objective.refusal_token import resolve_refusal_token
from derta.training.probe import RefusalProbe, load_probe_rows, probe_metrics
from derta.training.trainer import DeRTaTrainer
from derta.training.undisturbed import evenly

NONE = Dataset.from_list([{"prompt": [{"role": "user", "content": "nothing of the probe's"}]}])


@pytest.fixture(scope="module")
def rows(mixed_rows) -> list[dict[str, Any]]:
    """Held-out rows: two harmful, three benign, and a safety row without a harmful response, which is neither."""
    chosen = [row for row in mixed_rows if row["id"] not in ("triple-0", "triple-1", "helpful-3")]
    rows = [{**row, "kind": "safety" if row["rejected"] else "helpful"} for row in chosen]
    return [*rows, {**rows[0], "id": "refusal alone", "kind": "safety", "rejected": None}]


@pytest.fixture
def trainer(llama3_tokenizer, tiny_trainer):
    def make(probe_rows: list | None = None, limit: int = 64, **changes: Any) -> DeRTaTrainer:
        changes = {"per_device_train_batch_size": 2, "max_steps": 5, "learning_rate": 1e-2, **changes}
        torch.manual_seed(0)  # of the adapter
        probe = None
        if probe_rows is not None:
            refusal = resolve_refusal_token(llama3_tokenizer, "Sorry")
            probe = RefusalProbe(probe_rows, llama3_tokenizer, refusal, every=2, rows_per_side=limit, max_length=100)
        lora = LoraConfig(r=4, lora_dropout=0.4, target_modules="all-linear", task_type="CAUSAL_LM")
        return tiny_trainer(more={"peft_config": lora, "probe": probe}, **changes)

    return make


def probe_of(trainer: DeRTaTrainer) -> RefusalProbe:
    return next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, RefusalProbe))


def lines(trainer: DeRTaTrainer) -> list[dict[str, float]]:
    return [line for line in trainer.state.log_history if "probe/seconds" in line]


def test_numbers_by_hand():
    """One side alone has no AUROC, a broken model no separation.

    Harmful 0.9, 0.7 | 0.5; benign 0.6 | 0.1: of 3 x 2 pairs, 0.5 < 0.6 is the one that is the wrong way round."""
    found = probe_metrics([[0.9, 0.7], [0.5]], [[0.6, 0.1]])
    assert (found["probe/rows_harmful"], found["probe/rows_benign"]) == (2, 1)
    assert (found["probe/positions_harmful"], found["probe/positions_benign"]) == (3, 2)
    assert found["probe/refusal_prob_harmful"] == pytest.approx(2.1 / 3)
    assert found["probe/refusal_prob_benign"] == pytest.approx(0.7 / 2)
    assert found["probe/auroc"] == pytest.approx(5 / 6)
    assert found["probe/auroc_low"] < 5 / 6 < found["probe/auroc_high"]
    assert found["probe/refusal_prob_harmful@0"] == pytest.approx(1.4 / 2)
    assert found["probe/auroc@0"] == pytest.approx(1 / 2)
    assert (found["probe/refusal_prob_harmful@1-5"], found["probe/refusal_prob_benign@1-5"]) == (0.7, 0.1)
    assert "probe/auroc@6-30" not in found and "probe/refusal_prob_benign@>30" not in found
    found = probe_metrics([], [[0.25]])
    assert found["probe/refusal_prob_benign"] == 0.25 and found["probe/positions_harmful"] == 0
    assert "probe/auroc" not in found and "probe/refusal_prob_harmful" not in found
    # Of a broken model
    found = probe_metrics([[0.9, math.nan]], [[0.1]])
    assert math.isnan(found["probe/auroc"]) and math.isnan(found["probe/refusal_prob_benign"])
    assert found["probe/rows_harmful"] == 1


def test_rows_are_taken_from_everywhere():
    assert evenly(range(10), 4) == [0, 2, 5, 7]
    assert evenly(range(3), 4) == [0, 1, 2]


def test_the_same_numbers_as_in_an_evaluation(trainer, rows, llama3_tokenizer):
    """With logits over the whole vocabulary there, through the fused head here, in batches of another size."""
    ready = trainer(rows)
    fewer = probe_of(trainer(rows, limit=1)).measure()
    assert (fewer["probe/rows_harmful"], fewer["probe/rows_benign"]) == (1, 1)
    found = probe_of(ready).measure()
    assert (found["probe/rows_harmful"], found["probe/rows_benign"]) == (2, 3)
    target = TargetModel(ready.model, llama3_tokenizer)
    refusal = probe_of(ready).refusal
    helpful = [row for row in rows if not row["rejected"]][:3]
    sides = [
        [row.refusal for _, row in given_rows(target, some, refusal, harmful=harmful, batch_size=size)]
        for some, harmful, size in ((rows[:5], True, 5), (helpful, False, 1))
    ]
    expected = probe_metrics(*sides)
    assert found == pytest.approx(expected, rel=1e-5)
    assert 0.2 < found["probe/auroc"] < 0.8 and found["probe/positions_harmful"] > 20


def test_training_does_not_notice(trainer, rows):
    """Dropout of the adapter draws from the global generator in every step: the weights would show it."""
    measured, alone = trainer(rows), trainer()
    for ready in (measured, alone):
        torch.manual_seed(1)
        ready.train()
    assert [line["step"] for line in lines(measured)] == [0, 2, 4, 5]
    losses = [[line["loss"] for line in ready.state.log_history if "loss" in line] for ready in (measured, alone)]
    assert losses[0] == losses[1] and len(losses[0]) == 5
    assert all(torch.equal(*pair) for pair in zip(measured.model.parameters(), alone.model.parameters(), strict=True))


def test_it_leaves_everything_as_it_was(trainer, rows):
    ready = trainer(rows)
    norm = ready.model.get_submodule("base_model.model.model.norm")
    ready.model.train()
    norm.eval()
    state = torch.get_rng_state()
    modes = {name: module.training for name, module in ready.model.named_modules()}
    weights = copy.deepcopy(ready.model.state_dict())
    probe_of(ready).measure()
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in ready.model.named_modules()} == modes and not norm.training
    assert all(parameter.grad is None for parameter in ready.model.parameters())
    assert all(torch.equal(weights[name], value) for name, value in ready.model.state_dict().items())


def test_the_curve_shows_what_is_learned(trainer, rows, caplog):
    """RTO raises P(refusal) on the harmful rows; cost and count of the measurements are said."""
    ready = trainer(rows, max_steps=20, learning_rate=3e-2)
    with caplog.at_level(logging.INFO):
        ready.train()
    measured = lines(ready)
    assert [line["step"] for line in measured] == [*range(0, 21, 2)]
    assert measured[-1]["probe/refusal_prob_harmful"] > 10 * measured[0]["probe/refusal_prob_harmful"]
    assert measured[-1]["probe/auroc"] > measured[0]["probe/auroc"] + 0.3
    assert all(0 < line["probe/seconds"] and 0 < line["probe/share_of_time"] <= 1 for line in measured)
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("probe at step 20: P(refusal) harmful 0.") for line in said)
    assert any(line.startswith("probe: 11 measurements in") for line in said)


def test_rates_leave_the_probe_out(trainer, rows, monkeypatch):
    """A probe of a second between steps of milliseconds: tokens per second do not show it."""
    import time

    ready = trainer(rows, max_steps=2)
    probe = probe_of(ready)
    monkeypatch.setattr(probe, "measure", lambda: time.sleep(1) or {"probe/auroc": 0.5})
    begin = time.perf_counter()
    ready.train()
    took = time.perf_counter() - begin
    steps = [line for line in ready.state.log_history if "tokens_per_second" in line]
    tokens = [steps[0]["num_tokens"], steps[1]["num_tokens"] - steps[0]["num_tokens"]]
    seconds = sum(n / line["tokens_per_second"] for n, line in zip(tokens, steps, strict=True))
    assert took > 2 and seconds < took - 1.9


def test_rows_that_cannot_be_measured(trainer, rows):
    with pytest.raises(InputError, match="neither a harmful nor a helpful response.*trainer.eval_steps=0"):
        trainer([rows[-1]])


@pytest.fixture
def config(tmp_path):
    def make(**probe: Any) -> TrainRunConfig:
        return TrainRunConfig(data=DataConfig(path=str(tmp_path / "rows.jsonl")), probe=ProbeConfig(**probe))

    return make


def test_off_without_held_out_rows_or_by_eval_steps(config, caplog):
    with caplog.at_level(logging.INFO):
        assert load_probe_rows(config(), NONE) is None
    assert len(caplog.records) == 1 and "probe: off" in caplog.text and "holdout:" in caplog.text
    caplog.clear()
    off = config(path="nowhere")
    off.trainer = TrainerConfig(eval_steps=0)
    with caplog.at_level(logging.INFO):
        assert load_probe_rows(off, NONE) is None
    assert not caplog.records
    with pytest.raises(InputError, match="rows of the probe: probe.path=nowhere.jsonl: expected a dataset"):
        load_probe_rows(config(path="nowhere.jsonl"), NONE)


def test_rows_that_are_trained_on_are_left_out(config, rows, tmp_path, caplog):
    """By the words of their prompts; the warning counts them and quotes none."""
    path = tmp_path / "probe.jsonl"
    kept = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    prompts = [row["prompt"][-1]["content"] for row in rows]
    shouted = [{"prompt": [{"role": "user", "content": f"  {text.upper()}!"}]} for text in dict.fromkeys(prompts)]
    with caplog.at_level(logging.WARNING):
        kept = load_probe_rows(config(path=str(path)), Dataset.from_list(shouted[:1]))
    left = [row["prompt"][-1]["content"] for row in kept.dataset]
    assert left == [text for text in prompts if text != prompts[0]]
    assert f"{len(prompts) - len(left)} of {len(prompts)} rows left out" in caplog.text
    assert prompts[0] not in caplog.text.lower()
    with pytest.raises(InputError, match=f"the prompts of all {len(prompts)} are trained on"):
        load_probe_rows(config(path=str(path)), Dataset.from_list(shouted))
