"""Values out of range, refused by the dataclass that holds them, with key and value in the message."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import reduce
from typing import Any

import pytest

from derta.config import (
    AblationConfig,
    Arm,
    DataConfig,
    DistributedConfig,
    LoggingConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PeftConfig,
    ProbeConfig,
    TrainerConfig,
    TrainRunConfig,
)

GROUPS: dict[str, type] = {
    "data": DataConfig,
    "distributed": DistributedConfig,
    "logging": LoggingConfig,
    "model": ModelConfig,
    "objective": ObjectiveConfig,
    "objective.ablation": AblationConfig,
    "optim": OptimConfig,
    "peft": PeftConfig,
    "probe": ProbeConfig,
    "trainer": TrainerConfig,
}
NAN, INF = math.nan, math.inf

OUT_OF_RANGE: dict[str, list[Any]] = {
    "data.path": ["", "  "],
    "data.max_length": [-1, 0, 1],
    "data.num_proc": [0, -3],
    "data.evaluation_prompts": [[""], ["a.csv", " "]],
    "data.contamination_ngram": [0, -1],
    "distributed.timeout_minutes": [NAN, INF, 0.0, -1.0, 1e300],
    "logging.project": ["", "a/b", "a#b", "a?b", "a%b", "a:b", "a\\b", "x" * 129],
    "logging.peak_flops": [NAN, INF, 0.0, -1e15],
    "logging.tags": [[""], ["x" * 65]],
    "logging.group": [""],
    "model.name_or_path": ["", " "],
    "model.revision": ["", " "],
    "model.attn_implementation": [""],
    "model.chat_template": [""],
    "model.template_date": ["", "26 Jul", "2026-13-01"],
    "model.pad_token": [""],
    "model.eos_token": [""],
    "objective.refusal_text": ["", "   "],
    "objective.refusal_token_ids": [[], [1, 2, 3]],
    "objective.rto_weight": [NAN, INF, -INF, -0.1],
    "objective.mle_weight": [NAN, INF, -1.0],
    "objective.rto_dropout": [NAN, INF, -0.1, 1.0, 1.5],
    "objective.zero_prefix_fraction": [NAN, INF, -0.1, 1.1],
    "objective.mle_copies": [0, -1],
    "objective.transition_copies": [-1],
    "objective.transition_tokens": [0, -1],
    "objective.dpo_beta": [NAN, INF, 0.0, -0.1],
    "objective.ablation.probability": [NAN, -0.1, 1.1],
    "objective.ablation.refresh_steps": [0, -1],
    "objective.ablation.prompts": [0, -1],
    "objective.ablation.positions": [[], [0], [-1, 2]],
    "objective.ablation.layers": [[], [-1]],
    "optim.learning_rate": [NAN, INF, 0.0, -1e-4],
    "optim.scheduler": ["", "cosin", "reduce_lr_on_plateau"],
    "optim.warmup": [NAN, INF, -0.1, 1.5],
    "optim.weight_decay": [NAN, INF, -0.1],
    "optim.max_grad_norm": [NAN, INF, -1.0],
    "optim.adam_beta2": [NAN, INF, -0.1, 1.0],
    "peft.r": [0, -1],
    "peft.alpha": [0, -1],
    "peft.dropout": [NAN, -0.1, 1.0],
    "peft.target_modules": [[], [""], ["lm_head"]],
    "trainer.hub_model_id": ["", "a/b/c", "a b"],
    "trainer.global_batch_size": [0, -8],
    "trainer.micro_batch_size": [0, -8],
    "trainer.epochs": [NAN, INF, 0.0, -1.0],
    "trainer.max_steps": [0, -2],
    "trainer.seed": [-1, 2**32, 10**30],
    "probe.path": ["", " "],
    "probe.rows": [0, -1],
    "trainer.eval_steps": [-1],
    "trainer.logging_steps": [0, -1],
    "trainer.save_steps": [-1],
    "trainer.save_total_limit": [0, -1],
    "trainer.num_workers": [-1],
    "trainer.resume_despite": [["model"], ["data", "everything"]],
    "trainer.skip_grad_norm_above": [NAN, INF, 0.0, -1.0],
}


def sound() -> TrainRunConfig:
    return TrainRunConfig(model=ModelConfig(name_or_path="base"), data=DataConfig(path="data"), output_dir="run")


def put(config: TrainRunConfig, key: str, value: Any) -> None:
    *groups, name = key.split(".")
    setattr(reduce(getattr, groups, config), name, value)


def test_the_start_of_these_tests_is_sound() -> None:
    assert sound().problems() == []


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in OUT_OF_RANGE.items() for value in values])
def test_out_of_range(key: str, value: Any) -> None:
    config = sound()
    put(config, key, value)
    problems = config.problems()
    assert len(problems) == 1, problems
    assert key in problems[0]


@pytest.mark.parametrize("arm", ["vanilla", "dpo"])
def test_transitions_need_an_arm_with_harmful_prefixes(arm: str) -> None:
    config = sound()
    config.objective.name, config.objective.transition_copies = Arm[arm], 2
    (problem,) = config.problems()
    assert f"objective={arm}" in problem


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("objective.transition_copies", 0),
        ("objective.rto_dropout", 0.95),
        ("objective.zero_prefix_fraction", 1.0),
        ("objective.zero_prefix_fraction", 0.0),
        ("objective.ablation.probability", 1.0),
        ("objective.ablation.layers", [0, 3]),
        ("optim.warmup", 100.0),
        ("optim.warmup", 0.0),
        ("trainer.seed", 2**32 - 1),
        ("trainer.save_total_limit", None),
        ("trainer.max_steps", 1),
        ("distributed.timeout_minutes", 0.5),
        ("data.max_length", 2),
        ("trainer.eval_steps", 0),
        ("probe.rows", 1),
        ("logging.peak_flops", 1e12),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(key: str, value: Any) -> None:
    config = sound()
    put(config, key, value)
    assert config.problems() == []


@pytest.mark.parametrize("deepspeed", [{}, {"zero_optimization": 3}, {"zero_optimization": {"stage": 7}}])
def test_deepspeed_without_a_stage(deepspeed: dict[str, Any]) -> None:
    [problem] = DistributedConfig(deepspeed=deepspeed).problems()
    assert "zero_optimization.stage" in problem and "0, 1, 2 or 3" in problem


def test_all_problems_of_all_groups_come_at_once() -> None:
    config = sound()
    for key, values in OUT_OF_RANGE.items():
        put(config, key, values[0])
    config.output_dir = " "
    text = "\n".join(config.problems())
    for key in (*OUT_OF_RANGE, "output_dir"):
        assert key in text or key == "objective.refusal_text", "ids given outright need no text"


def test_every_number_and_text_that_can_be_wrong_is_in_the_table() -> None:
    """A new field must come with its range, or be named here as one that has none."""
    free = {
        "data.contamination", "data.format", "data.long_prompts", "distributed.deepspeed", "logging.wandb_mode",
        "logging.run_name",
        "logging.sample_texts", "model.dtype", "model.trust_remote_code", "objective.name", "objective.normalization",
        "objective.rto_at_end", "objective.ablation", "peft.method", "trainer.shuffle", "trainer.padding_free",
        "trainer.gradient_checkpointing", "trainer.resume", "peft.target_parameters",
        "trainer.push_to_hub", "trainer.hub_private_repo",
    }  # fmt: skip
    keys = {f"{group}.{field.name}" for group, schema in GROUPS.items() for field in fields(schema)}
    assert keys == OUT_OF_RANGE.keys() | free
