"""The reference of a run: the model before its first step, also where the run goes on from a checkpoint."""

import copy
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from derta.errors import InputError
from derta.objective.rows import View
from derta.training.collator import row_key
from derta.training.reference import REFERENCE_FILE, check_weight_model


def run(tiny_trainer: Any, output: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "objective": "constrained", "output_dir": str(output), "max_steps": 4, "save_strategy": "steps",
        "save_steps": 2, "learning_rate": 0.01, "lr_scheduler_type": "constant", "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
    }  # fmt: skip
    return tiny_trainer(**{**settings, **changes})


@pytest.fixture
def whole(tiny_trainer, tmp_path) -> Any:
    trainer = run(tiny_trainer, tmp_path / "whole")
    trainer.train()
    return trainer


def test_a_resumed_run_keeps_the_reference(whole, tiny_trainer, tmp_path):
    """Elsewhere, with other batches in memory, its weights are those of the whole one."""
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    resumed = run(tiny_trainer, tmp_path / "resumed", per_device_train_batch_size=6, gradient_accumulation_steps=1)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    files = [load_file(folder / REFERENCE_FILE) for folder in (tmp_path / "whole", tmp_path / "resumed")]
    assert torch.equal(files[0]["log_probs"], files[1]["log_probs"])
    pairs = zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    assert max(float((one - other).abs().max()) for one, other in pairs) < 1e-5
    same = run(tiny_trainer, tmp_path / "same")
    same.train(resume_from_checkpoint=str(checkpoint))
    pairs = zip(whole.model.state_dict().values(), same.model.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_checkpoint_without_its_reference_is_refused(whole, tiny_trainer, mixed_rows, tmp_path):
    checkpoint = str(tmp_path / "whole" / "checkpoint-2")
    with pytest.raises(InputError, match="holds the reference of other rows"):
        others = [{**row, "chosen": [{"role": "assistant", "content": "Sorry."}]} for row in mixed_rows]
        run(tiny_trainer, tmp_path / "other rows", rows=others).train(resume_from_checkpoint=checkpoint)
    (tmp_path / "whole" / REFERENCE_FILE).unlink()
    with pytest.raises(InputError, match=f"{REFERENCE_FILE} is not there"):
        run(tiny_trainer, tmp_path / "none").train(resume_from_checkpoint=checkpoint)


def test_lora_is_held_against_its_base(whole, tiny_trainer, tmp_path):
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    trainer = run(tiny_trainer, tmp_path / "lora", more={"peft_config": lora}, max_steps=2)
    trainer.train()
    found = [load_file(folder / REFERENCE_FILE)["log_probs"] for folder in (tmp_path / "whole", tmp_path / "lora")]
    assert torch.allclose(*found, atol=1e-5)
    assert "constrained_loss" in trainer.state.log_history[0]


def test_evaluation_rows_have_no_reference(tiny_trainer, mixed_rows, tmp_path):
    from datasets import Dataset

    with pytest.raises(InputError, match="leave eval_dataset out"):
        run(tiny_trainer, tmp_path / "run", more={"eval_dataset": Dataset.from_list(mixed_rows)})


def test_the_model_that_weights_come_from_is_let_go(tiny_trainer, tiny_model, llama3_tokenizer, tmp_path):
    """Before the first step, also where nothing collects garbage; else it would fill the GPU of the run."""
    tiny_model("llama", len(llama3_tokenizer)).save_pretrained(tmp_path / "other")
    trainer = run(tiny_trainer, tmp_path / "run", objective="w_door", weight_model=str(tmp_path / "other"), max_steps=1)

    def held() -> int:
        return sum(type(thing) is type(trainer.model) for thing in gc.get_objects())

    seen: list[int] = []
    trainer.training_step = lambda *inputs: seen.append(held()) or type(trainer).training_step(trainer, *inputs)
    gc.collect()
    before = held()
    gc.disable()
    try:
        trainer.train()
    finally:
        gc.enable()
    assert seen and set(seen) == {before}


def test_weights_are_those_behind_the_prefix_of_the_epoch(tiny_trainer, tiny_model, llama3_tokenizer, tmp_path):
    first, other = tiny_model("llama", len(llama3_tokenizer)), tiny_model("llama", len(llama3_tokenizer), seed=3)
    other.save_pretrained(tmp_path / "other")
    trainer = run(tiny_trainer, tmp_path / "run", objective="w_door", weight_model=str(tmp_path / "other"))
    trainer.train()  # two epochs of 12 rows
    seen = set()
    for epoch in range(2):
        for entry in trainer.train_dataset:
            if entry["view"] != View.MLE_WITH_PREFIX:
                continue
            row = trainer._builder.build(entry, entry["view"], entry["copy"], epoch)
            labels = torch.tensor(row["labels"][1:])
            places, ids = labels >= 0, torch.tensor([row["input_ids"]])
            with torch.no_grad():
                both = [model(ids, use_cache=False).logits[0, :-1].log_softmax(-1) for model in (other, first)]
            expected = (both[0] - both[1])[places].gather(1, labels[places][:, None])[:, 0]
            found = trainer.data_collator.reference[row_key(entry["id"], row)]
            assert torch.allclose(found, expected, atol=1e-5)
            seen.add(row_key(entry["id"], row))
    assert len(seen) > 4, "prefixes were drawn anew"


def test_the_model_of_the_weights_is_looked_at_before_training(tiny_model, llama3_tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"objective.weight_model=.*nowhere: no such directory"):
        check_weight_model(str(tmp_path / "nowhere"), llama3_tokenizer)
    tiny_model("llama", len(llama3_tokenizer)).save_pretrained(tmp_path / "other")
    grown = copy.deepcopy(llama3_tokenizer)
    grown.add_tokens(["another"])
    grown.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match=r"objective.weight_model=.* has another vocabulary"):
        check_weight_model(str(tmp_path / "other"), llama3_tokenizer)
    assert len(check_weight_model(str(tmp_path / "other"), grown)) == 64
