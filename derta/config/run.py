"""The whole configuration of a training run, and the checks that need more than one group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from derta.config.data import DataConfig, ProbeConfig
from derta.config.model import Dtype, ModelConfig
from derta.config.objective import Arm, ObjectiveConfig
from derta.config.settings import Name, Settings
from derta.config.sweep import SweepConfig
from derta.config.training import DistributedConfig, LoggingConfig, OptimConfig, PeftConfig, PeftMethod, TrainerConfig

_ADDED = 128  # gradients in bfloat16: of 128 normal ones a sum is off by 1 to 4%, of 512 by up to 27%, and smaller


@dataclass(kw_only=True, slots=True)
class TrainRunConfig(Settings):
    """What `launch/train.py` runs. One field per Hydra group."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    peft: PeftConfig = field(default_factory=PeftConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    output_dir: str = ""
    """Directory that receives everything the run leaves."""

    def conflicts(self, key: Name) -> Iterator[str]:
        yield from self.missing(key)
        batch, micro, ranks = self.trainer.batch, self.trainer.micro_batch_size, self.ranks
        if batch % (micro * ranks):
            yield (
                f"{key('trainer.global_batch_size')}={batch} is not divisible by {key('trainer.micro_batch_size')}="
                f"{micro} x {ranks} ranks = {micro * ranks}: change one of the three, for example "
                f"{key('trainer.global_batch_size')}={max(1, round(batch / (micro * ranks))) * micro * ranks}"
            )
        arm = self.objective.name
        if arm in (Arm.dpo, Arm.w_door) and self.distributed.fsdp2:
            yield f"objective={arm} with distributed=fsdp2: its second model is not sharded there; use zero2 or zero3"
        if arm is Arm.dpo:
            if self.data.format == "reference_jsonl":
                yield (
                    "objective=dpo with data.format=reference_jsonl: those rows are already expanded and hold no "
                    "pairs; use data.format=derta or preference"
                )
            if self.trainer.padding_free is True:
                yield "objective=dpo with trainer.padding_free=true: DPO rows are padded; set it to false"
        expanded = (Arm.derta, Arm.vanilla, Arm.dpo)
        if self.data.format == "reference_jsonl" and self.objective.name not in expanded:
            yield (
                f"objective={self.objective.name} with data.format=reference_jsonl: those rows have their prefixes "
                "drawn already and say themselves which are RTO rows; use objective=derta"
            )
        if self.trainer.compile and self.objective.ablation.probability > 0:
            yield (
                f"{key('trainer.compile')}=true with {key('objective.ablation.probability')}="
                f"{self.objective.ablation.probability}: compiled layers would not see the ablation; turn one off"
            )
        others = {
            "DeepSpeed": self.distributed.deepspeed is not None,
            "FSDP2": self.distributed.fsdp2,
            "peft=qlora": self.peft.method is PeftMethod.qlora,
            "trainer.liger": self.trainer.liger,
            "trainer.activation_offloading": self.trainer.activation_offloading,
            "objective=dpo": arm is Arm.dpo,
        }
        if self.trainer.compile and any(others.values()):
            untried = " and ".join(name for name, is_on in others.items() if is_on)
            yield f"{key('trainer.compile')}=true was not tried with {untried}: turn one off"
        zero = (self.distributed.deepspeed or {}).get("zero_optimization")
        fsdp2, engine = self.distributed.fsdp2, "FSDP2" if self.distributed.fsdp2 else "DeepSpeed"
        if self.optim.name != "adamw" and (zero is not None or fsdp2):
            yield (
                f"{key('optim.name')}={self.optim.name} with {engine}, which cuts the optimizer's state up by rank: "
                f"use {key('optim.name')}=adamw, or distributed=none"
            )
        if (name := self.optim.name) == "adamw_kahan":
            if self.peft.method is not PeftMethod.none:
                yield f"{key('optim.name')}={name} with peft={self.peft.method}, whose adapters are float32: use adamw"
            if self.model.dtype is Dtype.float32:
                yield f"{key('optim.name')}={name} with model.dtype=float32: set model.dtype=bfloat16, or use adamw"
            if self.objective.name is Arm.dpo:
                yield f"{key('optim.name')}={name} with objective=dpo, whose trainer takes no optimizer: use adamw"
            if (added := self.trainer.accumulation_steps(ranks)) > _ADDED:
                yield (
                    f"{key('optim.name')}={name} adds up gradients in bfloat16, where those of the last of {added} "
                    f"micro-batches round to nothing: raise {key('trainer.micro_batch_size')}; {_ADDED} are allowed"
                )
        gathers = "FSDP2" if fsdp2 else "ZeRO-3" if isinstance(zero, dict) and zero.get("stage") == 3 else None
        if self.peft.method is PeftMethod.qlora and gathers:
            yield (
                f"peft=qlora with {gathers}, which cannot cut up weights of 4 bits here: every GPU holds the whole "
                "base, a quarter of its 16-bit size; use distributed=none, zero1 or zero2, or peft=lora"
            )
        if self.trainer.activation_offloading and not self.trainer.gradient_checkpointing and gathers:
            yield (
                f"{key('trainer.activation_offloading')}=true with {gathers} takes the weights that are gathered for a "
                f"layer for activations, unless layers keep their inputs alone: set "
                f"{key('trainer.gradient_checkpointing')}=true"
            )
        if "world_size" in self.trainer.resume_despite and self.distributed.deepspeed is not None:
            yield (
                "trainer.resume_despite=[world_size] with DeepSpeed: its optimizer state is cut up by rank; start from "
                "the model of the checkpoint instead (model.name_or_path), or use distributed=none"
            )

    def missing(self, key: Name) -> Iterator[str]:
        """What a run needs and no default can know."""
        if not self.model.name_or_path.strip():
            yield f"{key('model.name_or_path')} is empty: give a model directory or a hub id"
        if not self.data.path.strip():
            yield f"{key('data.path')} is empty: give a directory from launch/build_data.py or a rows file"
        if not self.output_dir.strip():
            yield f"{key('output_dir')} is empty: name a directory for this run"

    @property
    def ranks(self) -> int:
        """Processes of the run, as torchrun and accelerate announce them, or of each job of a sweep."""
        return int(os.environ.get("WORLD_SIZE") or self.sweep.processes)
