"""The whole configuration of a training run, and the checks that need more than one group."""

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
        """Of a whole configuration: `key` changes nothing."""
        yield from self.missing()
        arm, optimizer, trainer = self.objective.name, self.optim.name, self.trainer
        step = trainer.micro_batch_size * self.ranks
        if trainer.batch % step:
            yield (
                f"trainer.global_batch_size={trainer.batch} is not divisible by trainer.micro_batch_size="
                f"{trainer.micro_batch_size} x {self.ranks} ranks = {step}: change one of the three, for example "
                f"trainer.global_batch_size={max(1, round(trainer.batch / step)) * step}"
            )
        fsdp2, deepspeed = self.distributed.fsdp2, self.distributed.deepspeed
        zero = (deepspeed or {}).get("zero_optimization")
        if arm in (Arm.dpo, Arm.w_door) and fsdp2:
            yield f"objective={arm} with distributed=fsdp2: its second model is not sharded there; use zero2 or zero3"
        if self.data.format == "reference_jsonl" and arm is Arm.dpo:
            yield (
                "objective=dpo with data.format=reference_jsonl: those rows are already expanded and hold no pairs; "
                "use data.format=derta or preference"
            )
        elif self.data.format == "reference_jsonl" and arm not in (Arm.derta, Arm.vanilla):
            yield (
                f"objective={arm} with data.format=reference_jsonl: those rows have their prefixes drawn already and "
                "say themselves which are RTO rows; use objective=derta"
            )
        if arm is Arm.dpo and trainer.padding_free is True:
            yield "objective=dpo with trainer.padding_free=true: DPO rows are padded; set it to false"
        if trainer.compile and (probability := self.objective.ablation.probability) > 0:
            yield (
                f"trainer.compile=true with objective.ablation.probability={probability}: compiled layers would not "
                "see the ablation; turn one off"
            )
        others = {
            "DeepSpeed": deepspeed is not None,
            "FSDP2": fsdp2,
            "peft=qlora": self.peft.method is PeftMethod.qlora,
            "trainer.liger": trainer.liger,
            "trainer.activation_offloading": trainer.activation_offloading,
            "objective=dpo": arm is Arm.dpo,
        }
        if trainer.compile and any(others.values()):
            untried = " and ".join(name for name, is_on in others.items() if is_on)
            yield f"trainer.compile=true was not tried with {untried}: turn one off"
        if optimizer != "adamw" and (zero is not None or fsdp2):
            yield (
                f"optim.name={optimizer} with {'FSDP2' if fsdp2 else 'DeepSpeed'}, which cuts the optimizer's state up "
                "by rank: use optim.name=adamw, or distributed=none"
            )
        if optimizer == "adamw_kahan":
            if self.peft.method is not PeftMethod.none:
                yield f"optim.name={optimizer} with peft={self.peft.method}, whose adapters are float32: use adamw"
            if self.model.dtype is Dtype.float32:
                yield f"optim.name={optimizer} with model.dtype=float32: set model.dtype=bfloat16, or use adamw"
            if arm is Arm.dpo:
                yield f"optim.name={optimizer} with objective=dpo, whose trainer takes no optimizer: use adamw"
            if (added := trainer.accumulation_steps(self.ranks)) > _ADDED:
                yield (
                    f"optim.name={optimizer} adds up gradients in bfloat16, where those of the last of {added} "
                    f"micro-batches round to nothing: raise trainer.micro_batch_size; {_ADDED} are allowed"
                )
        gathers = "FSDP2" if fsdp2 else "ZeRO-3" if isinstance(zero, dict) and zero.get("stage") == 3 else None
        if self.peft.method is PeftMethod.qlora and gathers:
            yield (
                f"peft=qlora with {gathers}, which cannot cut up weights of 4 bits here: every GPU holds the whole "
                "base, a quarter of its 16-bit size; use distributed=none, zero1 or zero2, or peft=lora"
            )
        if trainer.activation_offloading and not trainer.gradient_checkpointing and gathers:
            yield (
                f"trainer.activation_offloading=true with {gathers} takes the weights that are gathered for a layer "
                "for activations, unless layers keep their inputs alone: set trainer.gradient_checkpointing=true"
            )
        if "world_size" in trainer.resume_despite and deepspeed is not None:
            yield (
                "trainer.resume_despite=[world_size] with DeepSpeed: its optimizer state is cut up by rank; start from "
                "the model of the checkpoint instead (model.name_or_path), or use distributed=none"
            )

    def missing(self) -> Iterator[str]:
        """What a run needs and no default can know."""
        if not self.model.name_or_path.strip():
            yield "model.name_or_path is empty: give a model directory or a hub id"
        if not self.data.path.strip():
            yield "data.path is empty: give a directory from launch/build_data.py or a rows file"
        if not self.output_dir.strip():
            yield "output_dir is empty: name a directory for this run"

    @property
    def ranks(self) -> int:
        """Processes of the run, as torchrun and accelerate announce them, or of each job of a sweep."""
        return int(os.environ.get("WORLD_SIZE") or self.sweep.processes)
