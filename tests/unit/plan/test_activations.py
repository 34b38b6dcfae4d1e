"""The activation formulas against what torch saves for the backward, and holds at its peak, in small models.

What is saved is measured as the difference between models of four and of two layers, so that embedding and final norm
cancel; the peak is counted storage by storage while a forward and a backward run.
"""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from derta.config import ModelConfig, PeftConfig, PeftMethod
from derta.config.plan import PlanRunConfig
from derta.plan.activations import kept_bytes, layer_bytes, working_bytes
from derta.plan.settings import Settings
from derta.plan.shape import empty_model, model_shape

ROWS, LENGTH = 2, 64
HIDDEN = 64
SHAPE = {
    "vocab_size": 128, "hidden_size": HIDDEN, "intermediate_size": 192, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
FAMILIES: dict[str, Callable[..., Any]] = {
    "llama": transformers.LlamaConfig,
    "qwen3": transformers.Qwen3Config,
    "mixtral": lambda **fields: transformers.MixtralConfig(**fields, num_local_experts=4, num_experts_per_tok=2),
}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def config_for(family: str, layers: int, place: Path, *, lora: bool, attention: str) -> PlanRunConfig:
    directory = place / f"{family}-{layers}"
    FAMILIES[family](**SHAPE, num_hidden_layers=layers).save_pretrained(directory)
    config = PlanRunConfig(model=ModelConfig(name_or_path=str(directory), attn_implementation=attention))
    if lora:
        attention_only = ["q_proj", "k_proj", "v_proj", "o_proj"]
        config.peft = PeftConfig(method=PeftMethod.lora, r=8, dropout=0.0)
        if family == "mixtral":
            config.peft.target_modules, config.peft.target_parameters = attention_only, EXPERTS
    return config


def settings_for(config: PlanRunConfig, **changes: Any) -> Settings:
    """bfloat16 throughout, as under ZeRO, and padded, unless changed."""
    changes = {"stage": 2, "weight": 2, "rows": ROWS, "length": LENGTH, "checkpointing": False, **changes}
    changes = {"keys": changes["length"], **changes}
    return replace(Settings.of(config, model_shape(config)), **changes)


def built(config: PlanRunConfig) -> torch.nn.Module:
    model = empty_model(config)[0].to_empty(device="cpu").to(torch.bfloat16)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        torch.nn.init.ones_(parameter) if "norm" in name else torch.nn.init.normal_(parameter, std=0.02)
    model = getattr(model, "get_base_model", lambda: model)()
    for module in model.modules():  # the frequencies of the rotary embedding are no parameters
        if hasattr(module, "rope_type"):
            module.__init__(model.config)
    model.train()
    model.enable_input_require_grads()
    return model


def saved_bytes(config: PlanRunConfig, *, checkpointing: bool = False, flattened: bool = False) -> int:
    """What the decoder's forward saves, each storage once; parameters are no activations."""
    model = built(config)
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) % 128
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, torch.Tensor] = {}  # kept alive, or an address would be used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        if flattened:
            positions = torch.arange(LENGTH).repeat(ROWS)[None]
            model.model(input_ids=ids.reshape(1, -1), position_ids=positions, use_cache=False)
        else:
            model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


@pytest.mark.parametrize(
    ("family", "lora", "attention", "how"),
    [
        ("llama", False, "sdpa", {}),
        ("llama", False, "eager", {}),
        ("llama", True, "sdpa", {}),
        ("qwen3", False, "sdpa", {}),
        ("mixtral", False, "sdpa", {}),
        ("mixtral", True, "sdpa", {}),
        ("llama", False, "sdpa", {"flattened": True}),
        ("llama", False, "eager", {"flattened": True}),
        ("llama", False, "sdpa", {"checkpointing": True}),
    ],
)
def test_saved_tensors_of_a_layer(
    family: str, lora: bool, attention: str, how: dict[str, bool], tmp_path: Path
) -> None:
    """Flattened under a mask, too; with checkpointing a layer keeps its input alone, to the byte."""
    two, four = (config_for(family, layers, tmp_path, lora=lora, attention=attention) for layers in (2, 4))
    measured = (saved_bytes(four, **how) - saved_bytes(two, **how)) / 2
    shape = model_shape(two)
    if "checkpointing" in how:
        kept = kept_bytes(shape, settings_for(two, **how)) / shape.layers
        assert kept == measured == 2 * HIDDEN * ROWS * LENGTH
    else:
        settings = settings_for(two, **({"keys": ROWS * LENGTH} if how else {}))
        assert layer_bytes(shape, settings) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(
    ("padding_free", "attention", "keys"),
    [
        ("auto", None, 0),
        ("auto", "eager", 100),
        ("auto", "varlen", 0),
        (False, None, 100),
        (True, None, 800),
        (True, "eager", 800),
        (True, "varlen", 0),
    ],
)
def test_keys_of_a_query(padding_free: Any, attention: str | None, keys: int, tmp_path: Path) -> None:
    """Eight rows of at most 100 tokens; no mask where rows are flattened without one, as auto does on a GPU."""
    config = config_for("llama", 2, tmp_path, lora=False, attention="sdpa")
    config.model.attn_implementation, config.data.max_length = attention, 100
    config.trainer.padding_free, config.trainer.micro_batch_size = padding_free, 8
    assert Settings.of(config, model_shape(config)).keys == keys


class Held(TorchDispatchMode):
    """Bytes of the storages that operations make and that are still alive, and the most there ever were."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.alive = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.peak = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.alive:
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


@pytest.mark.parametrize(
    ("lora", "dropout", "stage", "checkpointing"),
    [
        (False, 0.0, 2, True),
        (False, 0.0, None, True),
        (False, 0.0, None, False),
        (True, 0.0, 2, True),
        (True, 0.1, 2, True),
        (True, 0.0, None, True),
        (True, 0.1, None, True),
        (True, 0.1, None, False),
    ],
)
def test_the_peak_of_a_forward_and_a_backward(
    lora: bool, dropout: float, stage: int | None, checkpointing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the head, whose tiles do not shrink with the model."""
    monkeypatch.setattr("derta.plan.activations.TILE_VOCABULARY", 0)
    rows, length = 16, 64
    config = config_for("llama", 4, tmp_path, lora=lora, attention="sdpa")
    config.peft.dropout = dropout
    model = built(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):  # as on a GPU: one byte of mask, where a CPU keeps a number
            module.forward = lambda x, p=module.p: torch.native_dropout(x, p, True)[0]
    for parameter in model.parameters():
        if stage is None and parameter.requires_grad:
            parameter.data = parameter.data.float()
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = torch.arange(rows * length).reshape(rows, length) % 128
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    with Held([*model.parameters(), *model.buffers(), *gradients]) as held:
        with torch.autocast("cpu", torch.bfloat16, enabled=stage is None):
            loss = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.sum()
        loss.backward()
    settings = settings_for(
        config, stage=stage, weight=2 if lora or stage else 4, checkpointing=checkpointing, rows=rows, length=length
    )
    shape = model_shape(config)
    planned = kept_bytes(shape, settings) + working_bytes(shape, settings)
    assert planned == pytest.approx(held.peak, rel=0.05)
