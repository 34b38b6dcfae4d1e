"""What of a configuration memory depends on, DeepSpeed's defaults filled in."""

from __future__ import annotations

from dataclasses import dataclass

from derta.config import Arm, Dtype, PeftMethod
from derta.config.plan import PlanRunConfig
from derta.errors import InputError
from derta.plan.shape import ModelShape

# DeepSpeed's own defaults, in elements (deepspeed.runtime.zero.config), where conf/distributed/ leaves them to it.
_BUCKET = 500_000_000
_LIVE = 1_000_000_000


@dataclass(frozen=True)
class Settings:
    """What of a configuration memory depends on.

    stage: None without DeepSpeed. weight: bytes of a weight of the (base) model as computation sees it. four_bits: its
    linear layers are in nf4. optimizer: optim.name. activations_on_host: what the backward needs waits there. rows: of
    one micro-batch as the model sees it (DPO sees two per pair). length: tokens of the longest row. keys: how many each
    query has a score or a mask for, where there is one: those of its row, or, flattened, those of all rows. reference:
    a second model lies beside the trained one. weighted: one does until the first step (w_door).
    """

    ranks: int
    stage: int | None
    fsdp2: bool
    offload_optimizer: bool
    offload_parameters: bool
    weight: int
    lora: bool
    four_bits: bool
    optimizer: str
    activations_on_host: bool
    dropout: bool
    checkpointing: bool
    rows: int
    length: int
    keys: int
    reference: bool
    weighted: bool
    reduce_bucket: int
    prefetch: int
    live: int
    overlap: bool

    @classmethod
    def of(cls, config: PlanRunConfig, shape: ModelShape) -> Settings:
        """Raises InputError for ZeRO stage 0, whose optimizer is another one."""
        zero = (config.distributed.deepspeed or {}).get("zero_optimization") or {}
        stage = zero.get("stage") if config.distributed.deepspeed is not None else None
        if stage == 0:
            raise InputError("a plan for ZeRO stage 0 is not made: plan distributed=none, or stage 1, 2 or 3")
        lora, fsdp2 = config.peft.method is not PeftMethod.none, config.distributed.fsdp2
        masters = stage is None and not lora and not fsdp2 and config.optim.name != "adamw_kahan"
        float32 = config.model.dtype is Dtype.float32 or masters
        dpo = config.objective.name is Arm.dpo
        rows, length = config.trainer.micro_batch_size * (2 if dpo else 1), config.data.max_length

        def elements(name: str, default: int, auto: int) -> int:
            value = zero.get(name, default)
            return auto if value == "auto" else int(value)

        square = shape.hidden * shape.hidden
        return cls(
            ranks=config.world_size,
            stage=stage,
            fsdp2=fsdp2,
            offload_optimizer=_on_host(zero, "offload_optimizer"),
            offload_parameters=_on_host(zero, "offload_param"),
            weight=4 if float32 else 2,
            lora=lora,
            four_bits=config.peft.method is PeftMethod.qlora,
            optimizer=config.optim.name,
            activations_on_host=config.trainer.activation_offloading,
            dropout=lora and config.peft.dropout > 0,
            checkpointing=config.trainer.gradient_checkpointing,
            rows=rows,
            length=length,
            keys=_keys(config, shape, rows, dpo),
            reference=dpo and not lora,
            weighted=config.objective.name.rows.weighted,
            reduce_bucket=elements("reduce_bucket_size", _BUCKET, square),
            prefetch=elements("stage3_prefetch_bucket_size", 50_000_000, int(0.9 * square)),
            live=elements("stage3_max_live_parameters", _LIVE, _LIVE),
            overlap=bool(zero.get("overlap_comm", False)),
        )

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def wide(self) -> bool:
        """The residual stream is float32: float32 weights, of which autocast computes products in bfloat16."""
        return self.stage is None and not self.fsdp2 and self.weight == 4

    @property
    def wide_adapters(self) -> bool:
        """PEFT keeps adapters in float32 beside a bfloat16 base; DeepSpeed and FSDP2 compute with bfloat16 ones."""
        return self.stage is None and not self.fsdp2 and self.lora

    @property
    def held(self) -> int:
        """Bytes of a weight at rest: FSDP2 trains float32 ones and gathers them in the precision of the run."""
        return 4 if self.fsdp2 and not self.lora else self.weight


def _on_host(zero: dict[str, object], name: str) -> bool:
    part = zero.get(name)
    return isinstance(part, dict) and part.get("device") in ("cpu", "nvme")


def _keys(config: PlanRunConfig, shape: ModelShape, rows: int, dpo: bool) -> int:
    """With padding_free=auto a GPU flattens rows of a model with sdpa in 16 bit, without a mask."""
    wanted, has_mask = config.trainer.padding_free, shape.attention_implementation in ("sdpa", "eager")
    pads = shape.attention_implementation == "eager" or config.model.dtype is Dtype.float32
    if wanted is False or dpo or (wanted == "auto" and pads):
        return config.data.max_length
    return rows * config.data.max_length if wanted is True and has_mask else 0
