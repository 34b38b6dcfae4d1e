"""The later steps of plain TRL."""

from __future__ import annotations

import copy
import importlib.resources
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from trl import SFTTrainer

from derta.config.durability import DurabilityRunConfig
from derta.config.evaluation import EvaluationConfig, PromptSetConfig
from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.sweep.durability import _tune, run_durability

LLAMA = (importlib.resources.files("trl") / "chat_templates" / "llama3_2.jinja").read_text(encoding="utf-8")


def test_their_day_is_that_of_the_evaluations(tmp_path: Path, llama3_tokenizer: Any, tiny_model: Any, monkeypatch: Any):
    """A template that writes the date: what TRL trains on is of the settled day, what is saved still asks for it."""
    tokenizer, trained_on = copy.deepcopy(llama3_tokenizer), []
    tokenizer.chat_template = LLAMA
    tiny_model("llama", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    train = SFTTrainer.train

    def watched(trainer: SFTTrainer) -> Any:
        trained_on.append(tokenizer.decode(trainer.train_dataset[0]["input_ids"]))
        return train(trainer)

    monkeypatch.setattr(SFTTrainer, "train", watched)
    model = ModelConfig(name_or_path=str(tmp_path / "model"), template_date="2020-01-02")
    prompt, chosen = ([{"role": role, "content": "a question"}] for role in ("user", "assistant"))
    config = DurabilityRunConfig(model=model, output_dir=str(tmp_path), batch_size=1)
    _tune(config, [{"prompt": prompt, "chosen": chosen}], {1: tmp_path / "later"})
    assert "Today Date: 02 Jan 2020" in trained_on[0]
    assert (tmp_path / "later" / "chat_template.jinja").read_text() == LLAMA
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "later"))
    assert any(not before[name].equal(after[name]) for name in before)


def test_a_whole_model_without_later_steps_has_nothing_to_do(model_dir, tmp_path):
    sets = {"harmful": PromptSetConfig(harmful=True, path=str(tmp_path / "rows.jsonl"))}
    config = DurabilityRunConfig(
        model=ModelConfig(name_or_path=str(model_dir)), eval=EvaluationConfig(sets=sets), steps=[],
        output_dir=str(tmp_path / "out"),
    )  # fmt: skip
    with pytest.raises(InputError, match="nothing to do: there are no later steps, and .* is no adapter"):
        run_durability(config)
