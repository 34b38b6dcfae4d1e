"""The run's configuration as arguments of transformers, TRL, PEFT and DeepSpeed. Nothing else translates."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.config import LongPrompts, PeftMethod, TrainRunConfig
from derta.training.config import DeRTaConfig

if TYPE_CHECKING:
    import peft

    from derta.training.dpo import PairConfig


def shared_arguments(config: TrainRunConfig, output_dir: Path, *, world_size: int, dtype: str) -> dict[str, Any]:
    """What SFTConfig and DPOConfig have in common."""
    import torch

    trainer, optim = config.trainer, config.optim
    on_cpu = not torch.accelerator.is_available()
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": trainer.micro_batch_size,
        "gradient_accumulation_steps": trainer.accumulation_steps(world_size),
        "num_train_epochs": trainer.epochs,
        "max_steps": trainer.max_steps,
        "learning_rate": optim.learning_rate,
        "lr_scheduler_type": optim.scheduler,
        "warmup_steps": optim.warmup,  # below 1: a share of all steps
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.max_grad_norm,
        "adam_beta2": optim.adam_beta2,
        "seed": trainer.seed,
        "data_seed": trainer.seed,
        "logging_steps": trainer.logging_steps,
        "logging_nan_inf_filter": False,  # a NaN must be seen, not averaged away
        "save_strategy": "steps" if trainer.save_steps else "no",
        "save_steps": trainer.save_steps or 1,
        "bf16": dtype == "bfloat16",
        "use_cpu": on_cpu,
        "activation_checkpointing": trainer.gradient_checkpointing,
        "dataloader_num_workers": trainer.num_workers,
        "dataloader_persistent_workers": trainer.num_workers > 0,
        "dataloader_pin_memory": not on_cpu,
        "dataset_num_proc": config.data.num_proc,
        "deepspeed": copy.deepcopy(config.distributed.deepspeed),  # Hugging Face fills its "auto" fields in place
        "ddp_timeout": int(config.distributed.timeout_minutes * 60),
        "ddp_find_unused_parameters": False,
        "report_to": [],
        "run_name": config.logging.run_name or output_dir.name,
        "push_to_hub": False,
        "max_length": config.data.max_length,
    }


def derta_arguments(config: TrainRunConfig, shared: dict[str, Any]) -> DeRTaConfig:
    objective = config.objective
    return DeRTaConfig(
        **shared,
        padding_free=config.trainer.padding_free,
        objective=objective.name.value,
        refusal_text=objective.refusal_text,
        refusal_token_ids=objective.refusal_token_ids,
        rto_weight=objective.rto_weight,
        mle_weight=objective.mle_weight,
        rto_dropout=objective.rto_dropout,
        rto_at_end=objective.rto_at_end,
        zero_prefix_fraction=objective.zero_prefix_fraction,
        mle_copies=objective.mle_copies,
        transition_copies=objective.transition_copies,
        transition_tokens=objective.transition_tokens,
        normalization=objective.normalization.value,
        **{f"ablation_{name}": value for name, value in asdict(objective.ablation).items()},
        drop_long_prompts=config.data.long_prompts is LongPrompts.drop,
        shuffle=config.trainer.shuffle,
        peak_flops=config.logging.peak_flops,
    )


def dpo_arguments(config: TrainRunConfig, shared: dict[str, Any]) -> PairConfig:
    from derta.training.dpo import PairConfig

    order = "random" if config.trainer.shuffle else "sequential"
    return PairConfig(
        **shared,
        beta=config.objective.dpo_beta,
        train_sampling_strategy=order,
        peak_flops=config.logging.peak_flops,
    )


def lora_config(config: TrainRunConfig) -> peft.LoraConfig | None:
    """PEFT's configuration, or None for full fine-tuning. The base's pinned revision travels with the adapter."""
    if config.peft.method is PeftMethod.none:
        return None
    import peft

    targets = config.peft.target_modules
    return peft.LoraConfig(
        r=config.peft.r,
        lora_alpha=config.peft.alpha,
        lora_dropout=config.peft.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else list(targets),
        target_parameters=list(config.peft.target_parameters) or None,
        task_type="CAUSAL_LM",
        revision=config.model.revision,
    )


def weights_dtype(config: TrainRunConfig, dtype: str) -> str:
    """Precision the weights are loaded in. Full fine-tuning without DeepSpeed needs float32 master weights (autocast
    computes in bfloat16); DeepSpeed keeps its own masters, and a LoRA base is never updated."""
    full = config.peft.method is PeftMethod.none
    return "float32" if full and config.distributed.deepspeed is None else dtype
