"""Bytes per rank: model states under ZeRO, buffers, and what a host and a disk hold.

    P parameters   T trainable ones   D ranks

Model states after Rajbhandari et al., "ZeRO" (arXiv 1910.02054, section 3 and figure 1), in the precisions that
DeepSpeed 0.19 really uses; tests/integration/test_planned_states.py holds them against the tensors of two ranks:

    bfloat16       weights          gradients       float32 copy, two Adam moments
    ZeRO-1         2 P              2 T             12 T / D
    ZeRO-2         2 P              2 T / D         12 T / D
    ZeRO-3         2 P / D          2 T / D         12 T / D        (tensors of at most 10 H elements stay whole, too)
    none           4 P (LoRA: 2 P)  4 T             8 T             float32 weights, autocast computes in bfloat16

With float32 weights (model.dtype=float32) weights and gradients take twice as much; masters are still copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from derta.config import Arm, Dtype, PeftMethod
from derta.config.plan import PlanRunConfig
from derta.errors import InputError
from derta.plan.activations import Batch, activation_bytes, head_bytes
from derta.plan.shape import ModelShape

# DeepSpeed's own defaults, in elements (deepspeed.runtime.zero.config), where conf/distributed/ leaves them to it.
_BUCKET = 500_000_000
_LIVE = 1_000_000_000
_SUB_GROUP = 1_000_000_000


@dataclass(frozen=True)
class Settings:
    """What of a configuration memory depends on. stage: None without DeepSpeed. weight: bytes of a weight."""

    ranks: int
    stage: int | None
    offload_optimizer: bool
    offload_parameters: bool
    weight: int
    lora: bool
    dropout: bool
    checkpointing: bool
    batch: Batch
    reference: bool
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
        lora = config.peft.method is PeftMethod.lora
        float32 = config.model.dtype is Dtype.float32 or (stage is None and not lora)
        dpo = config.objective.name is Arm.dpo
        rows = config.trainer.micro_batch_size * (2 if dpo else 1)

        def elements(name: str, default: int, auto: int) -> int:
            value = zero.get(name, default)
            return auto if value == "auto" else int(value)

        square = shape.hidden * shape.hidden
        return cls(
            ranks=config.world_size,
            stage=stage,
            offload_optimizer=_on_host(zero, "offload_optimizer"),
            offload_parameters=_on_host(zero, "offload_param"),
            weight=4 if float32 else 2,
            lora=lora,
            dropout=lora and config.peft.dropout > 0,
            checkpointing=config.trainer.gradient_checkpointing,
            batch=Batch(rows, config.data.max_length, padded=not config.trainer.padding_free),
            reference=dpo and not lora,
            reduce_bucket=elements("reduce_bucket_size", _BUCKET, square),
            prefetch=elements("stage3_prefetch_bucket_size", 50_000_000, int(0.9 * square)),
            live=elements("stage3_max_live_parameters", _LIVE, _LIVE),
            overlap=bool(zero.get("overlap_comm", False)),
        )

    @property
    def autocast(self) -> bool:
        """float32 weights of which products are computed in bfloat16."""
        return self.stage is None and self.weight == 4


def _on_host(zero: dict[str, object], name: str) -> bool:
    part = zero.get(name)
    return isinstance(part, dict) and part.get("device") in ("cpu", "nvme")


@dataclass(frozen=True)
class States:
    """Bytes per rank. fp32_gradients: only while the optimizer steps."""

    weights: int
    gradients: int
    optimizer: int
    fp32_gradients: int


def model_states(shape: ModelShape, settings: Settings) -> States:
    p, t, d = shape.parameters, shape.trainable, settings.ranks
    if settings.stage is None:
        adapters = t * (4 - settings.weight) if settings.lora else 0  # PEFT keeps adapters in float32
        return States(settings.weight * p + adapters, 4 * t, 8 * t, 0)
    share = t / d
    whole = settings.stage == 3 and shape.small * settings.weight
    weights = settings.weight * (p / d if settings.stage == 3 else p) + whole
    gradients = settings.weight * (t if settings.stage == 1 else share)
    stepping = 4 * min(share, _SUB_GROUP) if settings.stage == 3 else (4 + settings.weight) * share
    return States(int(weights), int(gradients), int(12 * share), int(stepping))  # float32 weights are cloned, too


def buffer_bytes(shape: ModelShape, settings: Settings) -> int:
    """Communication buffers, gathered parameters, and copies of other precision.

    none: DDP's flat buckets (a copy of all gradients) with several ranks; bfloat16 copies of the weights, kept
    by autocast until the backward has used them. ZeRO-1 and 2: the reduce bucket, twice where communication overlaps.
    ZeRO-3: reduce and prefetch buckets, parameters that may be gathered at a time (stage3_max_live_parameters), and the
    head, which the fused loss gathers as a whole.
    """
    if settings.stage is None:
        buckets = 4 * shape.trainable if settings.ranks > 1 else 0
        return buckets + (2 * shape.parameters if settings.autocast else 0)
    bucket = settings.weight * settings.reduce_bucket
    if settings.stage < 3:
        return bucket * (2 if settings.overlap else 1)
    head = shape.vocabulary * shape.hidden
    gathered = max(min(shape.parameters, settings.live), head + shape.layer, shape.largest)
    return bucket + settings.weight * (gathered + settings.prefetch)


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank, GPU and host. Everything lives at the same time but the optimizer step's float32 gradients,
    which come when the activations are gone: `peak` is the larger of the two moments."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    buffers: int
    reference: int
    fp32_gradients: int
    host: int

    @property
    def peak(self) -> int:
        lasting = self.weights + self.gradients + self.optimizer + self.reference
        return lasting + max(self.activations + self.head + self.buffers, self.fp32_gradients + self.buffers)


def rank_memory(shape: ModelShape, settings: Settings) -> RankMemory:
    states, host = model_states(shape, settings), 0
    weights, gradients, optimizer = states.weights, states.gradients, states.optimizer
    stepping = states.fp32_gradients
    if settings.offload_optimizer:  # gradients go to the host as they are made, and the step is taken there
        host += optimizer + gradients + stepping
        optimizer = gradients = stepping = 0
    if settings.offload_parameters:
        host += weights
        weights = settings.weight * shape.small
    trained_head = not settings.lora
    return RankMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activation_bytes(
            shape,
            settings.batch,
            checkpointing=settings.checkpointing,
            lora=settings.lora,
            dropout=settings.dropout,
            autocast=settings.autocast,
        ),
        head=head_bytes(shape, settings.batch, trainable=trained_head),
        buffers=buffer_bytes(shape, settings),
        reference=states.weights if settings.reference else 0,
        fp32_gradients=stepping,
        host=host,
    )


def host_bytes(shape: ModelShape, settings: Settings, memory: RankMemory, ranks_here: int) -> dict[str, int]:
    """Of one host with `ranks_here` ranks. Under ZeRO-3 rank 0 alone reads the files and hands the values out
    (transformers.modeling_utils); else every rank builds the whole model on its host before it moves to the GPU."""
    model = shape.parameters * settings.weight * (2 if settings.reference else 1)
    return {"loading": model * (1 if settings.stage == 3 else ranks_here), "offload": memory.host * ranks_here}


def disk_bytes(shape: ModelShape, settings: Settings) -> dict[str, int]:
    """One checkpoint-N, and the final model (or adapter). ZeRO-1 and ZeRO-2 write the 16-bit weights a second time, as
    DeepSpeed's module states; frozen weights are left out."""
    model = settings.weight * shape.parameters if not settings.lora else 4 * shape.trainable
    if settings.lora and settings.stage is not None:
        model = settings.weight * shape.trainable
    optimizer = (8 if settings.stage is None else 12) * shape.trainable
    module = settings.weight * shape.trainable if settings.stage in (1, 2) else 0
    return {"model": model, "checkpoint": model + optimizer + module}
