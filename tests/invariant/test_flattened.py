"""Padded and flattened (padding-free) batches give the same losses and gradients."""

from typing import Any

import pytest
from peft import LoraConfig
from transformers import TrainerCallback

from derta.errors import InputError
from derta.training.checks import check_attention
from derta.training.trainer import DeRTaTrainer

STEPS, TOLERANCE = 5, 1e-5


class FirstGradients(TrainerCallback):
    """Copies the gradients of the first optimizer step."""

    def __init__(self, model: Any):
        self.model, self.gradients = model, {}

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        if not self.gradients:
            named = self.model.named_parameters()
            self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}


def train(trainer: DeRTaTrainer) -> tuple[list[float], dict[str, Any]]:
    """Losses, and the first gradients."""
    gradients = FirstGradients(trainer.model)
    trainer.add_callback(gradients)
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line], gradients.gradients


@pytest.mark.parametrize("family", ["llama", "mistral", "mixtral", "qwen2", "qwen3", "gpt2"])
def test_padded_and_flattened(family, tiny_trainer, record_property):
    """12 rows in steps of 2 x 3: a row that saw its neighbour, or a wrong position, would show at once."""
    results = []
    for padding_free in (False, True):
        trainer = tiny_trainer(
            family=family,
            per_device_train_batch_size=3,
            gradient_accumulation_steps=2,
            max_steps=STEPS,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            rto_weight=1.5,
            padding_free=padding_free,
        )
        results.append(train(trainer))
    (padded, padded_gradients), (flattened, flattened_gradients) = results
    assert len(padded) == len(flattened) == STEPS and padded[0] - padded[-1] > 0.05
    deviation = max(abs(a - b) for a, b in zip(padded, flattened, strict=True))
    record_property("deviation", deviation)
    assert deviation < TOLERANCE
    largest = max(gradient.norm() for gradient in padded_gradients.values())
    for name, gradient in padded_gradients.items():
        # Against the larger of its own size and a speck of the largest: key biases have no gradient but rounding.
        scale = max(gradient.norm(), 1e-3 * largest)
        assert (gradient - flattened_gradients[name]).norm() / scale < TOLERANCE, name


@pytest.mark.parametrize(
    "change",
    [{"padding_free": True}, {"padding_free": True, "pad_to_multiple_of": 8}, {"activation_checkpointing": True}],
    ids=["flattened", "flattened to a multiple of 8", "activation checkpointing"],
)
def test_lora(change, tiny_trainer):
    """12 rows as one padded micro-batch, and as four micro-batches of three in other ways, with an adapter."""
    losses = []
    for micro, changes in ((12, {}), (3, change)):
        lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = tiny_trainer(  # which makes the adapter behind the model, whose seed is 0
            more={"peft_config": lora},
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=12 // micro,
            max_steps=STEPS,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            rto_weight=1.5,
            **changes,
        )
        losses.append(train(trainer)[0])
    assert losses[0][0] - losses[0][-1] > 0.05
    assert losses[1] == pytest.approx(losses[0], abs=TOLERANCE)


def test_attention_that_ignores_row_boundaries_is_refused(tiny_model):
    model = tiny_model("llama", 50)
    model.config._attn_implementation = "some_other_attention"
    with pytest.raises(InputError, match="some_other_attention.*attend to one another"):
        check_attention(model)


@pytest.mark.parametrize("family", ["opt", "mamba"])
def test_model_whose_flattened_rows_see_one_another_is_refused(family, tiny_trainer):
    """Found by running it, before the first step: nothing in its configuration tells. Padded it trains."""
    for padding_free in (True, False):
        trainer = tiny_trainer(family=family, per_device_train_batch_size=4, max_steps=1, padding_free=padding_free)
        if padding_free:
            with pytest.raises(InputError, match="lets flattened rows see one another; use padded batches"):
                trainer.train()
        else:
            trainer.train()
