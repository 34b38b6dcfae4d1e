"""What is found out before the first step: a fused head that is not log-softmax, and that looking leaves no trace."""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import trl
from peft import LoraConfig

from derta.errors import InputError
from derta.training import trainer as trainer_module
from derta.training.trainer import DeRTaTrainer

LORA = {"peft_config": LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM")}


@pytest.fixture
def make(tiny_trainer: Callable[..., Any]) -> Callable[..., DeRTaTrainer]:
    def trainer(**changes: Any) -> Any:
        torch.manual_seed(0)
        return tiny_trainer(max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, **changes)

    return trainer


def change_head(trainer: DeRTaTrainer, change: Callable[..., torch.Tensor]) -> None:
    """Another version of TRL, whose head makes of log_probs what `change(log_probs, inputs)` says."""
    model: Any = trainer.model
    whole = model.forward

    def forward(self: Any, *args: Any, **inputs: Any) -> Any:
        outputs = whole(*args, **inputs)
        if inputs.get("fused_lm_head"):
            outputs.log_probs = change(outputs.log_probs, inputs)
        return outputs

    model.forward = types.MethodType(forward, model)


def without_rto(log_probs: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
    """The labels that are not the next token are lost."""
    return log_probs * (inputs["labels"] == inputs["input_ids"])[:, 1:]


def from_input_ids(log_probs: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
    """Positions without a label are scored, too."""
    return log_probs - 1.0 * (inputs["labels"][:, 1:] == -100)


@pytest.mark.parametrize("change", [without_rto, from_input_ids, lambda log_probs, _: log_probs * float("nan")])
def test_a_head_that_is_not_log_softmax_is_caught_before_the_first_step(change, make):
    trainer = make()
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    change_head(trainer, change)
    with pytest.raises(InputError, match=f"the fused LM head of TRL {trl.__version__} differs from log-softmax by"):
        trainer.train()
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"tied": True}),
        ("llama", {"more": LORA}),
        ("llama", {"bf16": True}),
        ("llama", {"padding_free": True}),
        ("gemma2", {}),
        ("mixtral", {}),
        ("opt", {}),
    ],
)
def test_the_head_of_today_passes(family: str, settings: dict[str, Any], make: Callable[..., DeRTaTrainer]) -> None:
    trainer = make(family=family, **settings)
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    "adapter", [{"target_modules": ["embed_tokens"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}]
)
def test_adapters_that_would_merge_into_something_else(adapter, make):
    with pytest.raises(InputError, match="^target_modules holds the token embedding.* LM head is tied to it"):
        make(tied=True, more={"peft_config": LoraConfig(r=2, task_type="CAUSAL_LM", **adapter)})


def test_looking_leaves_no_trace(make: Callable[..., DeRTaTrainer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout of the adapter draws from the global generator in every step: the weights would show it."""
    looked = make(more=LORA)
    looked.train()
    monkeypatch.setattr(trainer_module, "check_head", lambda *_: None)
    plain = make(more=LORA)
    plain.train()
    assert all(torch.equal(*pair) for pair in zip(looked.model.parameters(), plain.model.parameters(), strict=True))
