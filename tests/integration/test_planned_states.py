"""Predicted against measured: the model states of two ranks under ZeRO-1, 2, 3 and FSDP2, tensor by tensor, and the
size of their checkpoints."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import measure_states
import pytest
from training_cases import REPOSITORY, TORCHRUN

from derta.config import Dtype, ModelConfig, PeftConfig, PeftMethod, TrainerConfig
from derta.config.plan import PlanRunConfig
from derta.plan.memory import disk_bytes, rank_memory
from derta.plan.propose import strategy_config
from derta.plan.settings import Settings
from derta.plan.shape import model_shape


def test_states_of_two_ranks(command: Callable[..., subprocess.CompletedProcess], tmp_path: Path) -> None:
    result = command(*TORCHRUN, measure_states.__file__, "measured.json")
    assert result.returncode == 0, result.stderr[-3000:]
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert len(measured) == len(measure_states.CASES)
    for case in measured:
        place = tmp_path / case["size"]
        measure_states.config_of(case["size"]).save_pretrained(place)
        config = PlanRunConfig(
            model=ModelConfig(name_or_path=str(place), dtype=Dtype[case["dtype"]]),
            distributed=strategy_config("fsdp2" if case["stage"] == "fsdp2" else f"zero{case['stage']}"),
            trainer=TrainerConfig(micro_batch_size=2, global_batch_size=8),
            world_size=2,
        )
        if case["method"] == "lora":
            config.peft = PeftConfig(method=PeftMethod.lora, r=measure_states.LORA["r"], dropout=0.0)
        shape = model_shape(config)
        settings = Settings.of(config, shape)
        states = rank_memory(shape, settings)
        for name in ("weights", "gradients", "optimizer"):
            assert getattr(states, name) == pytest.approx(case[name], rel=0.02), (case, states)
        assert disk_bytes(shape, settings)["checkpoint"] == pytest.approx(case["disk"], rel=0.11), case


def test_the_command(command: Callable[..., subprocess.CompletedProcess], tmp_path: Path) -> None:
    script = REPOSITORY / "launch" / "plan.py"
    result = command(script, "model=llama3_8b", "distributed=zero3", "output=plan.json")
    assert result.returncode == 0, result.stderr
    assert "8,030,261,248 parameters" in result.stdout
    assert json.loads((tmp_path / "plan.json").read_text())["fits"] is True
    refused = command(script, "model=llama3_8b", "mfu=3", "device=a1000")
    assert refused.returncode == 2
    assert "mfu=3" in refused.stderr and "device=a1000: expected one of a100_40, a100, h100, h200" in refused.stderr
