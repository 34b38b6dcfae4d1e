"""`optim`, `trainer`, `peft` and `distributed`: how a run is trained."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from derta.config.choice import Choice

SCHEDULERS = (  # of transformers, those that need no arguments of their own
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
RESUME_DESPITE = (
    "data",  # other rows: the order goes on by step, so some rows may come again and others not at all
    "objective",  # other settings of the objective, on the same weights and optimizer state
    "world_size",  # another number of ranks; not with DeepSpeed, whose optimizer state is cut up by rank
    "pickles",  # DeepSpeed's state from outside the run's own directory: reading it can run code
)
_HUB_ID = re.compile(r"([\w.-]+/)?\w[\w.-]{0,95}", re.ASCII)
_LARGEST_SEED = 2**32 - 1  # NumPy's limit
_LONGEST_TIMEOUT = 365 * 24 * 60  # what any clock type underneath can hold


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """AdamW. warmup: a share of all steps below 1, else a number of steps. scheduler: one of SCHEDULERS.
    Defaults: the paper's full fine-tuning."""

    learning_rate: float = 2e-5
    scheduler: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 2e-5
    max_grad_norm: float = 1.0
    adam_beta2: float = 0.999

    def problems(self) -> list[str]:
        found = []
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            found.append(f"optim.learning_rate={self.learning_rate}: expected a number above 0")
        for key in ("warmup", "weight_decay", "max_grad_norm"):
            if not (math.isfinite(value := getattr(self, key)) and value >= 0):
                found.append(f"optim.{key}={value}: expected 0 or more")
        if self.warmup > 1 and math.isfinite(self.warmup) and not self.warmup.is_integer():
            found.append(f"optim.warmup={self.warmup}: expected a share of all steps below 1, or whole steps")
        if self.scheduler not in SCHEDULERS:
            found.append(f"optim.scheduler={self.scheduler}: expected one of {', '.join(SCHEDULERS)}")
        if not 0 <= self.adam_beta2 < 1:
            found.append(f"optim.adam_beta2={self.adam_beta2}: expected a number in [0, 1)")
        return found


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """The loop. Gradient accumulation is derived: global_batch_size / (micro_batch_size x ranks).

    max_steps: -1 for `epochs` epochs. save_steps: 0 saves only the final model. save_total_limit: checkpoints kept.
    resume: auto (newest complete checkpoint of this run), never, or a checkpoint directory.
    padding_free: flattened batches (needs an attention implementation that keeps packed sequences apart).
    resume_despite: differences that may lie between a checkpoint and the run that goes on from it, of RESUME_DESPITE.
    skip_grad_norm_above: updates whose global gradient norm is larger are left out and counted; null leaves none out.
    num_workers: loader processes per rank.
    eval_steps: how often P(refusal) is measured on held-out rows (see ProbeConfig); 0 never.
    push_to_hub: send the finished model to the hub (see derta/release/hub.py); to hub_model_id, or to the name of
    output_dir under your account; hub_private_repo: into a private repository only.
    """

    global_batch_size: int = 128
    micro_batch_size: int = 8
    epochs: float = 2.0
    max_steps: int = -1
    seed: int = 42
    shuffle: bool = True
    padding_free: bool = False
    gradient_checkpointing: bool = False
    logging_steps: int = 10
    eval_steps: int = 50
    save_steps: int = 0
    save_total_limit: int | None = 2
    resume: str = "auto"
    resume_despite: list[str] = field(default_factory=list)
    skip_grad_norm_above: float | None = None
    num_workers: int = 0
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = True

    def problems(self) -> list[str]:
        found = []
        for key in ("global_batch_size", "micro_batch_size", "logging_steps"):
            if (value := getattr(self, key)) < 1:
                found.append(f"trainer.{key}={value}: expected at least 1")
        for key in ("eval_steps", "save_steps", "num_workers", "seed"):
            if (value := getattr(self, key)) < 0:
                found.append(f"trainer.{key}={value}: expected 0 or more")
        if self.seed > _LARGEST_SEED:
            found.append(f"trainer.seed={self.seed}: expected at most {_LARGEST_SEED}")
        if self.max_steps < 1 and self.max_steps != -1:
            found.append(f"trainer.max_steps={self.max_steps}: expected at least 1, or -1 to count epochs instead")
        if not (math.isfinite(self.epochs) and self.epochs > 0):
            found.append(f"trainer.epochs={self.epochs}: expected a number above 0")
        if self.save_total_limit is not None and self.save_total_limit < 1:
            found.append(f"trainer.save_total_limit={self.save_total_limit}: expected null or at least 1")
        if unknown := sorted(set(self.resume_despite) - set(RESUME_DESPITE)):
            found.append(f"trainer.resume_despite={unknown}: expected some of {', '.join(RESUME_DESPITE)}")
        limit = self.skip_grad_norm_above
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            found.append(f"trainer.skip_grad_norm_above={limit}: expected null or a number above 0")
        if self.hub_model_id is not None and not _HUB_ID.fullmatch(self.hub_model_id):
            found.append(f"trainer.hub_model_id={self.hub_model_id}: expected NAME or ACCOUNT/NAME, or null")
        return found

    def accumulation_steps(self, world_size: int) -> int:
        """Micro-batches per rank and optimizer step."""
        return self.global_batch_size // (self.micro_batch_size * world_size)


class PeftMethod(Choice):
    none = "none"
    lora = "lora"


@dataclass(kw_only=True, slots=True)
class PeftConfig:
    """LoRA with the paper's shape. target_modules: module names, or [all-linear].
    target_parameters: parameters that are no module of their own, as the stacked experts of a mixture
    (mlp.experts.gate_up_proj); PEFT adapts them without dropout only."""

    method: PeftMethod = PeftMethod.none
    r: int = 96
    alpha: int = 16
    dropout: float = 0.05
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    target_parameters: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        found = []
        if self.r < 1 or self.alpha < 1:
            found.append(f"peft.r={self.r}, peft.alpha={self.alpha}: expected at least 1 each")
        if not 0 <= self.dropout < 1:
            found.append(f"peft.dropout={self.dropout}: expected a probability in [0, 1)")
        if not all(name.strip() for name in self.target_modules):
            found.append(f"peft.target_modules={list(self.target_modules)}: holds an empty name; drop it")
        if not all(name.strip() for name in self.target_parameters):
            found.append(f"peft.target_parameters={list(self.target_parameters)}: holds an empty name; drop it")
        if self.target_parameters and self.dropout:
            found.append(
                f"peft.dropout={self.dropout} with peft.target_parameters: PEFT cannot drop inputs of bare parameters; "
                "set peft.dropout=0"
            )
        if not self.target_modules:
            found.append("peft.target_modules is empty: name modules, or give [all-linear]")
        elif "lm_head" in self.target_modules:
            found.append("peft.target_modules holds lm_head, whose adapter TRL's fused head would never train: drop it")
        return found


@dataclass(kw_only=True, slots=True)
class DistributedConfig:
    """deepspeed: a DeepSpeed configuration as data (see conf/distributed/), "auto" fields filled in by Hugging Face;
    null for one process or plain data parallelism. timeout_minutes: how long a rank waits for the others."""

    deepspeed: dict[str, Any] | None = None
    timeout_minutes: float = 30.0

    def problems(self) -> list[str]:
        found = []
        zero = (self.deepspeed or {}).get("zero_optimization")
        stage = zero.get("stage") if isinstance(zero, dict) else None
        if self.deepspeed is not None and stage not in (0, 1, 2, 3):
            found.append(
                f"distributed.deepspeed.zero_optimization.stage={stage}: expected 0, 1, 2 or 3 (see conf/distributed/)"
            )
        if not 0 < self.timeout_minutes <= _LONGEST_TIMEOUT:
            found.append(
                f"distributed.timeout_minutes={self.timeout_minutes}: expected a number above 0 and up to "
                f"{_LONGEST_TIMEOUT} (a year)"
            )
        return found
