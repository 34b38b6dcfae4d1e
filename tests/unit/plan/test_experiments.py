"""Every shipped experiment, without weights and without a network: composed, validated, instantiated, planned."""

from dataclasses import replace

import pytest
from planned import composed, memory

from derta.config import Arm, PeftMethod
from derta.config.plan import Device
from derta.config.shipped import CONF_DIR
from derta.models.devices import GPUS
from derta.plan.architectures import ARCHITECTURES
from derta.plan.shape import ModelShape, empty_model, model_shape

EXPERIMENTS = sorted(  # those that name a model
    path.stem
    for path in (CONF_DIR / "experiment").glob("*.yaml")
    if not path.stem.startswith("miniature") and path.stem not in ("paper_full", "paper_lora", "potions")
)
PAPER = ["llama3_8b_full", "mistral_7b_full", "llama3_70b_lora", "mixtral_8x7b_lora"]
ARMS = [Arm.derta, Arm.vanilla, Arm.harmful_prefix, Arm.dpo]


_SHAPES: dict[tuple[PeftMethod, str, int], ModelShape] = {}


def shape_of(experiment: str) -> ModelShape:
    """Experiments that differ in names alone share one."""
    config = composed(f"+experiment={experiment}")
    known = ARCHITECTURES[config.model.name_or_path]
    key = (config.peft.method, known.model_type, known.parameters)
    if key not in _SHAPES:
        _SHAPES[key] = model_shape(config)
    return _SHAPES[key]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_architecture_is_the_published_one_and_every_arm_fits_eight_80_gb_gpus(experiment: str) -> None:
    config, shape = composed(f"+experiment={experiment}"), shape_of(experiment)
    lora = config.peft.method is not PeftMethod.none
    assert shape.parameters - lora * shape.trainable == ARCHITECTURES[config.model.name_or_path].parameters
    assert lora or shape.trainable == shape.parameters
    for arm in ARMS:
        words = (f"+experiment={experiment}", f"objective={arm.value}", "world_size=8")
        config = composed(*words)
        assert config.problems() == []
        assert (config.objective.name, config.trainer.batch, config.data.path) == (arm, 128, "data/derta_paper")
        peak = memory(shape, *words).peak
        assert 0 < peak <= GPUS[Device.a100].usable, f"{arm}: {peak / 2**30:.1f} GiB"


def test_the_paper_s_settings() -> None:
    for experiment in PAPER:
        config = composed(f"+experiment={experiment}")
        assert (config.trainer.epochs, config.trainer.batch) == (2.0, 128)
        if experiment.endswith("full"):
            assert (config.optim.learning_rate, config.optim.warmup, config.optim.weight_decay) == (2e-5, 0.03, 2e-5)
            assert (config.data.max_length, config.objective.rto_dropout) == (1024, 0.95)
        else:
            assert (config.optim.learning_rate, config.optim.warmup) == (1e-4, 0.0)
            assert (config.data.max_length, config.objective.rto_dropout) == (512, 0.0)
            assert (config.peft.r, config.peft.alpha) == (96, 16)
        assert config.distributed.deepspeed["zero_optimization"]["stage"] == 3
    hundred = composed("+experiment=llama3_70b_instruct_lora_100steps")
    assert hundred.trainer.max_steps == 100 and hundred.peft.dropout == 0.05
    assert replace(hundred.trainer, max_steps=-1, save_steps=100) == composed("+experiment=llama3_70b_lora").trainer


def test_lora_pairs_of_the_70b_model() -> None:
    """r (in + out) for q, k, v, o, gate, up and down in 80 layers."""
    pairs = [(8192, 8192), (8192, 1024), (8192, 1024), (8192, 8192), (8192, 28672), (8192, 28672), (28672, 8192)]
    assert shape_of("llama3_70b_lora").trainable == 80 * 96 * sum(a + b for a, b in pairs) == 1_242_562_560


def test_lora_reaches_mixtral_s_experts() -> None:
    """Attention in 32 layers, and eight experts with one pair for gate and up together and one for down."""
    attention = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096)]
    experts = 8 * (4096 + 2 * 14336 + 14336 + 4096)
    assert shape_of("mixtral_8x7b_lora").trainable == 32 * 96 * (sum(a + b for a, b in attention) + experts)
    assert shape_of("mixtral_8x7b_lora").adapted_stack == 3 * 8 * 4096 * 14336


def test_heads() -> None:
    for experiment, size, tied in [
        ("llama3_8b_full", (128_256, 4096), False),
        ("mistral_7b_full", (32_000, 4096), False),
        ("gemma3_1b_full", (262_144, 1152), True),
        ("llama32_1b_instruct_full", (128_256, 2048), True),
    ]:
        model, _ = empty_model(composed(f"+experiment={experiment}"))
        head = model.get_output_embeddings().weight
        assert tuple(head.shape) == size and head.is_meta
        assert (head is model.get_input_embeddings().weight) == tied
