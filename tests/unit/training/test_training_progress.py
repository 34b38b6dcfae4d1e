"""Lines for people: the few numbers that matter, none of the dictionaries of all of them."""

from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig

from derta.training.progress import line_of


def test_a_log_in_words() -> None:
    logs = {"loss": 0.13214, "grad_norm": 2.0, "learning_rate": 3e-4, "mle_tokens": 8e3, "tokens_per_second": 23391.4}
    assert line_of(logs, 20, 640) == (
        "step 20/640: loss 0.1321, gradient norm 2, learning rate 0.0003, tokens/s 23,391"
    )
    assert line_of({"probe/auroc": 0.5, "epoch": 1.0}, 20, 640) == "", "the probe says its own"
    evaluated = {"eval_all_loss": 0.5, "eval_all_rto_loss": 0.25, "eval_all_tokens_per_second": 5.0}
    assert line_of(evaluated, 20, 640) == "step 20/640 eval_all: loss 0.5, RTO loss 0.25, tokens/s 5"
    assert line_of({"train_runtime": 92.4, "train_loss": 0.0213}, 640, 640) == "640 steps: 0:01:32, mean loss 0.0213"


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_what_a_run_prints(disable_tqdm: bool, tiny_trainer: Any, mixed_rows: Any, capfd: Any) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    more = {"eval_dataset": Dataset.from_list(mixed_rows), "peft_config": lora}
    trainer = tiny_trainer(max_steps=3, per_device_train_batch_size=4, disable_tqdm=disable_tqdm, more=more)
    trainer.train()
    trainer.evaluate()
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith(("step", "3 steps", "{"))]
    assert [line.split(":")[0] for line in lines] == ["step 1/3", "step 2/3", "step 3/3", "3 steps", "step 3/3 eval"]
    assert all("loss" in line and len(line) < 200 for line in lines)
    assert lines[0].endswith(" left") and "P(refusal)" in " ".join(lines) and not lines[2].endswith(" left")
