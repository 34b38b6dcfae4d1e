"""Padded and flattened (padding-free) batches give the same losses and gradients, whichever attention computes them."""

from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from derta.errors import InputError
from derta.models.varlen import VARLEN
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

    def trained(attention: str, padding_free: bool) -> tuple[list[float], dict[str, Any]]:
        trainer = tiny_trainer(
            family=family, attention=attention, padding_free=padding_free, per_device_train_batch_size=3,
            gradient_accumulation_steps=2, max_steps=STEPS, learning_rate=1e-3, lr_scheduler_type="constant",
            max_grad_norm=0.0, rto_weight=1.5,
        )  # fmt: skip
        return train(trainer)

    padded, padded_gradients = trained("sdpa", False)
    assert len(padded) == STEPS and padded[0] - padded[-1] > 0.05
    largest = max(gradient.norm() for gradient in padded_gradients.values())
    for attention in ("sdpa", "eager", VARLEN):
        flattened, gradients = trained(attention, True)
        assert len(flattened) == STEPS
        deviation = max(abs(a - b) for a, b in zip(padded, flattened, strict=True))
        # Against the larger of its own size and a speck of the largest: key biases have no gradient but rounding.
        apart = max(
            float((gradient - gradients[name]).norm() / max(gradient.norm(), 1e-3 * largest))
            for name, gradient in padded_gradients.items()
        )
        record_property(f"deviation of {attention}", (deviation, apart))
        assert deviation < TOLERANCE and apart < TOLERANCE, attention


def test_evaluation_between_flattened_steps(tiny_trainer):
    """A batch with a row of its own for each sequence, and one row alone, go through `varlen` as through sdpa."""
    said = []
    for attention in ("sdpa", VARLEN):
        model = tiny_trainer(family="mistral", attention=attention, padding_free=False).model.eval()
        ids = torch.arange(80).reshape(2, 40)
        mask = (torch.arange(40) >= torch.tensor([[7], [0]])).long()
        generated = model.generate(ids[:1], max_new_tokens=5, do_sample=False, pad_token_id=0)
        said.append([model(ids, attention_mask=mask).logits[0, 7:], model(ids[:1]).logits, generated])
    for ours, theirs in zip(*said, strict=True):
        assert torch.equal(ours, theirs)


LORA_CHANGES: dict[str, dict[str, Any]] = {
    "flattened": {"padding_free": True},
    "flattened to a multiple of 8": {"padding_free": True, "pad_to_multiple_of": 8, "attention": VARLEN},
    "padded to a multiple of 16": {"pad_to_multiple_of": 16},
    "activation checkpointing": {"activation_checkpointing": True},
}


def test_lora(tiny_trainer):
    """12 rows as one padded micro-batch, and as four micro-batches of three in other ways, with an adapter."""

    def losses(micro: int, **changes: Any) -> list[float]:
        lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = tiny_trainer(  # which makes the adapter behind the model, whose seed is 0
            more={"peft_config": lora}, per_device_train_batch_size=micro, gradient_accumulation_steps=12 // micro,
            max_steps=STEPS, learning_rate=1e-2, lr_scheduler_type="constant", rto_weight=1.5, **changes,
        )  # fmt: skip
        return train(trainer)[0]

    padded = losses(12)
    assert padded[0] - padded[-1] > 0.05
    for name, change in LORA_CHANGES.items():
        assert losses(3, **change) == pytest.approx(padded, abs=TOLERANCE), name


@pytest.mark.parametrize("attention", ["some_other_attention", "flex_attention"])
def test_attention_that_cannot_flatten_is_refused(attention, tiny_trainer):
    with pytest.raises(InputError, match=f"padding_free=True with.*'{attention}'"):
        tiny_trainer(attention=attention, padding_free=True)


@pytest.mark.parametrize("family", ["opt", "mamba"])
def test_model_whose_flattened_rows_see_one_another_is_refused(family, tiny_trainer):
    """Found by running it: nothing in its configuration tells. Padded it trains, which auto takes on a CPU."""
    arguments = {"family": family, "per_device_train_batch_size": 4, "max_steps": 1}
    with pytest.raises(InputError, match="lets flattened rows see one another; use padded batches"):
        tiny_trainer(**arguments, padding_free=True)
    trainer = tiny_trainer(**arguments)
    assert trainer.padding_free is False
    trainer.train()


def test_capped_scores_are_not_passed_over(tiny_trainer):
    with pytest.raises(InputError, match="'varlen' knows neither sinks nor capped scores"):
        tiny_trainer(family="gemma2", attention=VARLEN, padding_free=True)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("family", "attention"),
    [*(("wide_heads", kind) for kind in (VARLEN, "flex_attention", "sdpa")), ("mistral", VARLEN), ("gpt2", VARLEN)],
)
def test_kernels_of_a_gpu(family, attention, tiny_trainer):
    """The kernels that training runs there, in bfloat16, against padded batches; auto takes one of them."""
    losses = []
    for kind, padding_free in (("sdpa", False), (attention, True), ("sdpa", "auto")):
        trainer = tiny_trainer(
            family=family, attention=kind, padding_free=padding_free, per_device_train_batch_size=6, max_steps=STEPS,
            use_cpu=False, bf16=True, learning_rate=1e-3,
        )  # fmt: skip
        assert trainer.padding_free is (padding_free is not False)
        losses.append(train(trainer)[0])
    assert losses[1] == pytest.approx(losses[0], rel=5e-3) and losses[2] == pytest.approx(losses[0], rel=5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize(("window", "width"), [(None, 16), (16, 16), (None, 20)])
def test_the_varlen_kernel_is_the_row_by_row_one(window, width, tiny_model):
    """Outputs and gradients of three rows, more heads than keys have, in bfloat16 and row by row in float32. The kernel
    takes no heads of 20 numbers."""
    from transformers import AttentionInterface

    attention = AttentionInterface()[VARLEN]
    layer = tiny_model("llama", 50).model.layers[0].self_attn.cuda()
    torch.manual_seed(0)
    inputs = [torch.randn(1, heads, 300, width, device="cuda") for heads in (4, 2, 2)]
    bounds = torch.tensor([0, 70, 71, 300], dtype=torch.int32, device="cuda")
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [heads.clone().requires_grad_() for heads in inputs]
        typed = [heads.to(dtype) for heads in leaves]
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
            said, _ = attention(
                layer, *typed, None, scaling=0.25, sliding_window=window, cu_seq_lens_q=bounds, max_length_q=229
            )
        said.float().square().sum().backward()
        found.append([said.float(), *(heads.grad for heads in leaves)])
    for exact, rounded in zip(*found, strict=True):
        assert (exact - rounded).norm() < 0.02 * exact.norm()
