"""Four bits: what is rounded and what is not, that training is that of the rounded base, and the library's absence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from derta.config import ModelConfig
from derta.errors import InputError
from derta.models.flops import ModelFlops
from derta.models.load import load_model
from derta.models.quantized import check_bitsandbytes, elements, in_four_bits
from derta.training.trainer import DeRTaTrainer

functional = pytest.importorskip("bitsandbytes", reason="needs derta[quantization]").functional


@pytest.fixture
def base(tiny_model: Callable[..., Any], llama3_tokenizer: Any, tmp_path: Path) -> Path:
    tiny_model("llama", len(llama3_tokenizer)).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def loaded(place: Path, *, four_bits: bool) -> Any:
    placement = in_four_bits("float32", torch.device("cpu")) if four_bits else {}
    return load_model(ModelConfig(name_or_path=str(place)), "float32", **placement)


def layers(model: Any) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


def rounded(place: Path) -> Any:
    """A plain model with the numbers that the four bits stand for."""
    plain, other = loaded(place, four_bits=False), layers(loaded(place, four_bits=True))
    for name, layer in layers(plain).items():
        if name != "lm_head":
            weight = other[name].weight
            layer.weight.data = functional.dequantize_4bit(weight.data, weight.quant_state)
            assert elements(weight) == layer.weight.numel() == 2 * weight.numel()
    return plain


def test_head_and_embedding_are_left_alone(base: Path) -> None:
    plain, model = loaded(base, four_bits=False), loaded(base, four_bits=True)
    kinds = {name: type(layer).__name__ for name, layer in layers(model).items()}
    assert {name for name, kind in kinds.items() if kind == "Linear"} == {"lm_head"}
    for ends in ("get_input_embeddings", "get_output_embeddings"):
        torch.testing.assert_close(getattr(model, ends)().weight, getattr(plain, ends)().weight, atol=0, rtol=0)
    assert ModelFlops.of(model, forward_only=True) == ModelFlops.of(plain, forward_only=True)


def test_training_is_that_of_the_rounded_base(
    base: Path, derta_args: Callable[..., Any], llama3_tokenizer: Any, mixed_rows: list
) -> None:
    """The same losses and gradient norms as LoRA on a model that holds the rounded weights; the model is run once in
    evaluation mode before its first step."""
    logs = []
    for model in (loaded(base, four_bits=True), rounded(base)):
        trainer = DeRTaTrainer(
            model,
            args=derta_args(max_steps=4, learning_rate=1e-2, per_device_train_batch_size=4),
            train_dataset=Dataset.from_list(mixed_rows),
            processing_class=llama3_tokenizer,
            peft_config=LoraConfig(r=4, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        adapters = [p for p in trainer.model.parameters() if p.requires_grad]
        assert {p.dtype for p in adapters} == {torch.float32}
        for p in adapters:
            p.data = p.data.bfloat16().float()  # as TRL leaves those of the one model
        trainer.train()
        logs.append([(line["loss"], line["grad_norm"]) for line in trainer.state.log_history if "loss" in line])
    assert len(logs[0]) == 4
    torch.testing.assert_close(*map(torch.tensor, logs), rtol=1e-4, atol=1e-5)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"peft=qlora needs bitsandbytes.*derta\[quantization\]"):
        check_bitsandbytes("peft=qlora")


def test_the_model_that_weights_come_from_is_rounded_too(
    base: Path, derta_args: Callable[..., Any], llama3_tokenizer: Any, mixed_rows: list
) -> None:
    """Of w_door: held against itself, it finds every token of a safe response as likely, to the last bit."""
    trainer = DeRTaTrainer(
        loaded(base, four_bits=True),
        args=derta_args(objective="w_door", weight_model=str(base), max_steps=1),
        train_dataset=Dataset.from_list(mixed_rows),
        processing_class=llama3_tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    numbers = torch.cat(list(trainer.data_collator.reference.values()))
    assert 0 < int((numbers == 0).sum()) < len(numbers)
