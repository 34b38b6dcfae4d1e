"""Values out of range, refused by the dataclass that holds them, with key and value in the message."""

import math
from functools import reduce
from typing import Any

import pytest

from derta.config import DataConfig, ModelConfig, TrainRunConfig
from derta.config.settings import keys

NAN, INF = math.nan, math.inf


def all_of(group: str, names: str, values: list[Any]) -> dict[str, list[Any]]:
    return {f"{group}.{name}": values for name in names.split()}


OUT_OF_RANGE: dict[str, list[Any]] = {
    # texts that are empty
    **all_of("model", "name_or_path revision attn_implementation chat_template pad_token eos_token", ["", " "]),
    **all_of("data", "path", ["", "  "]),
    **all_of("probe", "path", ["", " "]),
    **all_of("objective", "refusal_text reset_token weight_model", ["", "   "]),
    **all_of("logging", "group", [""]),
    # whole numbers from 1, and from 0
    **all_of("data", "num_proc contamination_ngram", [0, -1]),
    **all_of("objective", "mle_copies transition_tokens ablation.refresh_steps ablation.prompts", [0, -1]),
    **all_of("peft", "r alpha", [0, -1]),
    **all_of("probe", "rows", [0, -1]),
    **all_of("trainer", "global_batch_size micro_batch_size logging_steps save_total_limit", [0, -8]),
    **all_of("objective", "transition_copies", [-1]),
    **all_of("trainer", "eval_steps save_steps num_workers", [-1]),
    # numbers from 0, and above 0
    **all_of("objective", "rto_weight mle_weight", [NAN, INF, -INF, -0.1]),
    **all_of("optim", "weight_decay max_grad_norm", [NAN, INF, -0.1]),
    **all_of("distributed", "timeout_minutes", [NAN, INF, 0.0, -1.0, 1e300]),
    **all_of("logging", "peak_flops", [NAN, INF, 0.0, -1e15]),
    **all_of("objective", "dpo_beta door_beta weight_tau", [NAN, INF, 0.0, -0.1]),
    **all_of("optim", "learning_rate", [NAN, INF, 0.0, -1e-4]),
    **all_of("trainer", "epochs skip_grad_norm_above", [NAN, INF, 0.0, -1.0]),
    # shares, and shares below 1
    **all_of("objective", "zero_prefix_fraction ablation.probability", [NAN, INF, -0.1, 1.1]),
    **all_of("objective", "rto_dropout", [NAN, INF, -0.1, 1.0, 1.5]),
    **all_of("optim", "adam_beta2", [NAN, INF, -0.1, 1.0]),
    **all_of("peft", "dropout", [NAN, -0.1, 1.0]),
    # ranges of their own
    "data.max_length": [-1, 0, 1],
    "data.evaluation_prompts": [[""], ["a.csv", " "]],
    "logging.project": ["", "a/b", "a#b", "a?b", "a%b", "a:b", "a\\b", "x" * 129],
    "logging.tags": [[""], ["x" * 65]],
    "model.template_date": ["", "26 Jul", "2026-13-01"],
    "objective.refusal_token_ids": [[], [1, 2, 3]],
    "objective.constrained_betas": [[], [0.5, 2.0], [0.5, 0.0, 0.1], [0.5, 2.0, NAN]],
    "objective.weight_max": [NAN, INF, 0.9],
    "objective.ablation.positions": [[], [0], [-1, 2]],
    "objective.ablation.layers": [[], [-1]],
    "optim.name": ["", "adam", "adamw_4bit"],
    "optim.scheduler": ["", "cosin", "reduce_lr_on_plateau"],
    "optim.warmup": [NAN, INF, -0.1, 1.5],
    "peft.target_modules": [[], [""], ["lm_head"]],
    "trainer.hub_model_id": ["", "a/b/c", "a b"],
    "trainer.max_steps": [0, -2],
    "trainer.padding_free": ["sometimes", 2, None],
    "trainer.pad_to_multiple_of": [0, -8],
    "trainer.seed": [-1, 2**32, 10**30],
    "trainer.resume_despite": [["model"], ["data", "everything"]],
}
FREE = """
    data.contamination data.format data.long_prompts distributed.deepspeed distributed.fsdp2 logging.wandb_mode
    logging.run_name logging.sample_texts model.dtype model.trust_remote_code objective.name objective.normalization
    objective.rto_at_end objective.redraw peft.method peft.target_parameters trainer.shuffle
    trainer.compile trainer.liger trainer.activation_offloading
    trainer.gradient_checkpointing trainer.resume trainer.push_to_hub trainer.hub_private_repo
"""


def sound() -> TrainRunConfig:
    return TrainRunConfig(model=ModelConfig(name_or_path="base"), data=DataConfig(path="data"), output_dir="run")


def put(config: TrainRunConfig, key: str, value: Any) -> None:
    *groups, name = key.split(".")
    setattr(reduce(getattr, groups, config), name, value)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in OUT_OF_RANGE.items() for value in values])
def test_out_of_range(key: str, value: Any) -> None:
    config = sound()
    put(config, key, value)
    problems = config.problems()
    assert len(problems) == 1, problems
    assert key in problems[0]


def test_the_ends_of_the_ranges_are_allowed() -> None:
    config = sound()
    assert config.problems() == []
    for key, *values in (
        ("objective.transition_copies", 0), ("objective.rto_dropout", 0.95), ("optim.warmup", 100.0, 0.0),
        ("objective.zero_prefix_fraction", 1.0, 0.0), ("objective.ablation.probability", 1.0),
        ("objective.ablation.layers", [0, 3]),
        ("trainer.seed", 2**32 - 1), ("trainer.save_total_limit", None), ("trainer.max_steps", 1),
        ("distributed.timeout_minutes", 0.5), ("data.max_length", 2), ("trainer.eval_steps", 0), ("probe.rows", 1),
        ("logging.peak_flops", 1e12),
    ):  # fmt: skip
        for value in values:
            put(config, key, value)
            assert config.problems() == [], (key, value)


def test_all_problems_of_all_groups_come_at_once() -> None:
    config = sound()
    for key, values in OUT_OF_RANGE.items():
        put(config, key, values[0])
    config.output_dir = " "
    text = "\n".join(config.problems())
    for key in (*OUT_OF_RANGE, "output_dir"):
        assert key in text or key == "objective.refusal_text", "ids given outright need no text"


def test_every_number_and_text_that_can_be_wrong_is_in_the_table() -> None:
    """A new field must come with its range, or be named as one that has none."""
    known = {".".join(path) for path, _ in keys(TrainRunConfig) if path[0] != "sweep"}
    assert known == {*OUT_OF_RANGE, *FREE.split(), "output_dir"}
