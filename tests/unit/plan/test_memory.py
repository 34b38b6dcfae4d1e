"""Weights in four bits and moments in eight, planned and as bitsandbytes holds them on a CPU; what goes to the host."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from planned import composed, memory, settings

from derta.config import ModelConfig, PeftConfig, PeftMethod
from derta.config.plan import PlanRunConfig
from derta.models.devices import GPUS
from derta.models.load import load_model
from derta.models.quantized import in_four_bits
from derta.plan.memory import disk_bytes, rank_memory
from derta.plan.plan import make_plan, render
from derta.plan.settings import Settings
from derta.plan.shape import ModelShape, model_shape

ONE = ("world_size=1", "distributed=none", "trainer.micro_batch_size=1", "device=h100", "data.path=absent")
ONE_8B = ("model=llama3_8b", *ONE)
SHAPE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 512}


def size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    config = transformers.LlamaConfig(**SHAPE, num_attention_heads=4, bos_token_id=None, eos_token_id=None)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(place)
    return place


def test_four_bits(small: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="needs derta[quantization]")
    config = PlanRunConfig(
        model=ModelConfig(name_or_path=str(small)), peft=PeftConfig(method=PeftMethod.qlora, r=8), world_size=1
    )
    shape = model_shape(config)
    model: Any = load_model(config.model, "bfloat16", **in_four_bits("bfloat16", torch.device("cpu")))
    held = 4 * shape.trainable
    for weight in model.parameters():
        held += size(weight)
        if (state := getattr(weight, "quant_state", None)) is not None:
            held += size(state.absmax) + size(state.state2.absmax)
    assert rank_memory(shape, Settings.of(config, shape)).weights == pytest.approx(held, rel=1e-3)


def test_eight_bits(small: Path, tiny_trainer: Callable[..., Any]) -> None:
    """Of a trainer's own optimizer, which leaves the embedding at 32 bits."""
    pytest.importorskip("bitsandbytes", reason="needs derta[quantization]")
    trainer = tiny_trainer(max_steps=1, optim="adamw_8bit")
    trainer.model = transformers.AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)
    optimizer = trainer.create_optimizer()
    for weight in trainer.model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    names = ("state1", "state2", "absmax1", "absmax2")
    held = sum(size(state[name]) for state in optimizer.state.values() for name in names if name in state)
    config = PlanRunConfig(model=ModelConfig(name_or_path=str(small)), world_size=1)
    config.optim.name = "adamw_8bit"
    shape = model_shape(config)
    assert rank_memory(shape, Settings.of(config, shape)).optimizer == pytest.approx(held, rel=0.01)


def test_8b_by_hand(full: ModelShape) -> None:
    """Moments: 8 bytes for each of 128,256 x 4,096 of the embedding, 2 + 2/64 for every other weight."""
    embedding = 128_256 * 4096
    moments = 8 * embedding + (2 + 2 / 64) * (8_030_261_248 - embedding)
    eight, paged = memory(full, *ONE_8B, "optim.name=adamw_8bit"), (*ONE_8B, "optim.name=paged_adamw_8bit")
    assert (eight.optimizer, eight.host) == (int(moments), 0)
    there = memory(full, *paged)
    assert (there.optimizer, there.optimizer + there.host) == (8 * embedding, int(moments))
    assert disk_bytes(full, settings(full, *paged))["checkpoint"] == 4 * 8_030_261_248 + int(moments)


def test_8b_in_bfloat16(full: ModelShape) -> None:
    """adamw_kahan: 2 bytes each for weight, gradient, two moments and what rounding took."""
    words = (*ONE_8B, "optim.name=adamw_kahan", "optim.adam_beta2=0.99")
    kahan, weights = memory(full, *words), 8_030_261_248
    assert (kahan.weights, kahan.gradients, kahan.optimizer) == (2 * weights, 2 * weights, 6 * weights)
    assert disk_bytes(full, settings(full, *words))["checkpoint"] == 8 * weights
    assert memory(full, *words, "world_size=2").buffers == 2 * weights


def test_activations_on_the_host(full: ModelShape) -> None:
    """Five inputs of layers of float32 stay on the GPU, of 32."""
    words = (*ONE_8B, "trainer.gradient_checkpointing=true", "data.max_length=1000")
    here, there = memory(full, *words), memory(full, *words, "trainer.activation_offloading=true")
    assert (here.activations, here.host) == (32 * 4 * 4096 * 1000, 0)
    assert (there.activations, there.host) == (5 * 4 * 4096 * 1000, 27 * 4 * 4096 * 1000)


def test_70b_in_four_bits_fits_one_gpu_of_80_gb() -> None:
    """68.45e9 of 70.55e9 parameters are linear layers: all but embedding, head and norms."""
    plan = make_plan(composed("+experiment=llama3_70b_qlora", "world_size=1"))
    assert plan.shape.linear == 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)
    others = 70_553_706_496 - plan.shape.linear
    by_hand = 0.5159 * plan.shape.linear + 2 * others + 4 * plan.shape.trainable
    assert plan.memory.weights == pytest.approx(by_hand, rel=1e-4)
    assert plan.fits and "no sharding, QLoRA, " in render(plan)


def test_the_model_that_weights_come_from_lies_beside_the_trained_one() -> None:
    """Of w_door: of the base in four bits there are two until the first step, and one GPU of 80 GB holds one."""
    words = ("+experiment=llama3_70b_qlora", "world_size=1", "objective=w_door", "objective.weight_model=org/model")
    config = composed(*words)
    shape = model_shape(config)
    first = memory(shape, *ONE, *words, "trainer.micro_batch_size=4")
    assert first.first_forwards == 2 * first.weights - 4 * shape.trainable + first.working == first.peak
    assert first.peak > GPUS[config.device].usable


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["+experiment=llama3_70b_lora", "world_size=1"], "peft=qlora"),
        (
            ["+experiment=llama3_8b_full", "distributed=none", "optim.name=adamw_8bit", "world_size=1"],
            "optim.name=adamw",
        ),
        (["model=llama32_3b_instruct", "device=a100_40", "world_size=1"], "optim.name=paged_adamw_8bit"),
        (["model=llama3_8b", "world_size=2", "trainer.compile=true"], "peft=lora"),
    ],
)
def test_what_would_make_it_fit(words: list[str], expected: str) -> None:
    config = composed(*words, "data.path=absent")
    plan = make_plan(config)
    assert not plan.fits and plan.proposal is not None and expected in plan.proposal.overrides
    words += ["data.path=absent", *plan.proposal.overrides]
    assert composed(*words).problems() == []
    assert memory(model_shape(composed(*words)), *words).peak <= GPUS[config.device].usable
