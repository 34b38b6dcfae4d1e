"""The run's configuration as arguments of transformers, TRL, PEFT and DeepSpeed. Nothing else translates."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.config import Arm, Dtype, PeftMethod, TrainRunConfig
from derta.config.settings import plain
from derta.models.precision import stored_dtype
from derta.training.config import DeRTaConfig
from derta.training.fsdp import shard_fully, sharding

if TYPE_CHECKING:
    import peft

    from derta.training.dpo import PairConfig

# A batch grows by 8 tokens a row on average (1.7% of 480), and rows of up to 1,024 come in 64 lengths. cuDNN took about
# 0.3 s for each new one on an H200.
_MULTIPLE = 16


def arguments(config: TrainRunConfig, *, world_size: int, dtype: str) -> DeRTaConfig | PairConfig:
    """The arguments of the trainer of the configured arm."""
    shared = _shared_arguments(config, world_size=world_size, dtype=dtype)
    if config.distributed.fsdp2:
        return shard_fully(_derta_arguments(config, shared | sharding()))
    return _dpo_arguments(config, shared) if config.objective.name is Arm.dpo else _derta_arguments(config, shared)


def _shared_arguments(config: TrainRunConfig, *, world_size: int, dtype: str) -> dict[str, Any]:
    """What DeRTaConfig and PairConfig have in common."""
    import torch

    trainer, optim = config.trainer, config.optim
    on_cpu = not torch.accelerator.is_available()
    return {
        "output_dir": config.output_dir,
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
        **({} if optim.name in ("adamw", "adamw_kahan") else {"optim": optim.name}),
        "seed": trainer.seed,
        "data_seed": trainer.seed,
        "logging_steps": trainer.logging_steps,
        "logging_nan_inf_filter": False,  # a NaN must be seen, not averaged away
        "save_strategy": "steps" if trainer.save_steps else "no",
        "save_steps": trainer.save_steps or 1,
        "bf16": dtype == "bfloat16",
        "use_cpu": on_cpu,
        "activation_checkpointing": trainer.gradient_checkpointing,
        "activation_offloading": trainer.activation_offloading,
        "dataloader_num_workers": trainer.num_workers,
        "dataloader_persistent_workers": trainer.num_workers > 0,
        "dataloader_pin_memory": not on_cpu,
        "dataset_num_proc": config.data.num_proc,
        "deepspeed": copy.deepcopy(config.distributed.deepspeed),  # Hugging Face fills its "auto" fields in place
        "ddp_timeout": int(config.distributed.timeout_minutes * 60),
        "ddp_find_unused_parameters": False,
        "report_to": [],  # W&B is written by a callback of our own
        "run_name": config.logging.run_name or Path(config.output_dir).name,
        "push_to_hub": False,
        "max_length": config.data.max_length,
        "pad_to_multiple_of": trainer.pad_to_multiple_of or (None if on_cpu else _MULTIPLE),
        "peak_flops": config.logging.peak_flops,
        "skip_grad_norm_above": trainer.skip_grad_norm_above,
    }


def _derta_arguments(config: TrainRunConfig, shared: dict[str, Any]) -> DeRTaConfig:
    objective = plain(asdict(config.objective))
    ablation = objective.pop("ablation")
    del objective["dpo_beta"]
    return DeRTaConfig(
        **shared,
        objective=objective.pop("name"),
        **objective,
        **{f"ablation_{name}": value for name, value in ablation.items()},
        padding_free=config.trainer.padding_free,
        drop_long_prompts=config.data.long_prompts == "drop",
        shuffle=config.trainer.shuffle,
    )


def _dpo_arguments(config: TrainRunConfig, shared: dict[str, Any]) -> PairConfig:
    from derta.training.dpo import PairConfig

    order = "random" if config.trainer.shuffle else "sequential"
    return PairConfig(**shared, beta=config.objective.dpo_beta, train_sampling_strategy=order)


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


def final_dtype(config: TrainRunConfig, dtype: str) -> str:
    """Precision the final model is saved in: its base's, unless model.dtype asks for another; with DeepSpeed and
    adamw_kahan that of the weights they train."""
    in_place = config.distributed.deepspeed is not None or config.optim.name == "adamw_kahan"
    if in_place or config.model.dtype is not Dtype.auto:
        return dtype
    model = config.model
    return stored_dtype(model.name_or_path, model.revision, model.trust_remote_code)


def weights_dtype(config: TrainRunConfig, dtype: str) -> str:
    """Precision the weights are loaded in. Full fine-tuning without DeepSpeed needs float32 master weights (autocast,
    under FSDP2 gathered copies compute in bfloat16); DeepSpeed keeps its own masters, adamw_kahan what rounding takes,
    and a LoRA base is never updated."""
    full, kahan = config.peft.method is PeftMethod.none, config.optim.name == "adamw_kahan"
    return "float32" if full and not kahan and config.distributed.deepspeed is None else dtype


def own_optimizer(config: TrainRunConfig) -> dict[str, Any]:
    """Argument of the trainer for an optimizer that transformers does not know; weight decay comes from the trainer."""
    if config.optim.name != "adamw_kahan":
        return {}
    from optimi import AdamW

    settings = {"lr": config.optim.learning_rate, "betas": (0.9, config.optim.adam_beta2), "eps": 1e-8}
    return {"optimizer_cls_and_kwargs": (AdamW, settings)}
