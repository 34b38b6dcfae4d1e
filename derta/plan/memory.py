"""Bytes per rank: model states under ZeRO and FSDP2, buffers, and what a host and a disk hold.

    P parameters   T trainable ones   D ranks

Model states after Rajbhandari et al., "ZeRO" (arXiv 1910.02054, section 3 and figure 1), in the precisions that
DeepSpeed 0.19 really uses; tests/integration/test_planned_states.py holds them against the tensors of two ranks:

    bfloat16       weights          gradients       float32 copy, two Adam moments
    ZeRO-1         2 P              2 T             12 T / D
    ZeRO-2         2 P              2 T / D         12 T / D
    ZeRO-3         2 P / D          2 T / D         12 T / D        (tensors of at most 10 H elements stay whole, too)
    FSDP2          4 P / D          4 T / D         8 T / D         (LoRA: 2 P / D, adapters 4 T / D)
    none           4 P (LoRA: 2 P)  4 T             8 T             float32 weights, autocast computes in bfloat16
    adamw_kahan    2 P              2 T             6 T             two moments and what rounding took, in bfloat16

With float32 weights (model.dtype=float32) weights and gradients take twice as much; masters are still copied.

Not held against a GPU (tests/unit/plan/test_memory.py holds weights and moments against bitsandbytes' on a CPU):

    QLoRA          a weight of a linear layer takes 4 bits, one byte of scale for 64 weights, and 4 bytes of scale for
                   256 scales: 1/2 + 1/64 + 4 / (64 x 256) = 0.5159 bytes (arXiv 2305.14314, section 3)
    8-bit AdamW    2 moments of a byte, each with 4 bytes of scale for 256 of them: 2 + 2/64 = 2.03 bytes (arXiv
                   2110.02861); 8 bytes for the input embedding, which transformers leaves at 32 bits
    paged          moments lie in memory that the driver moves between GPU and host: where the GPU is full, it has to
                   hold those of one tensor at a time
"""

from dataclasses import dataclass

from derta.plan.activations import kept_bytes, stashed_bytes, working_bytes
from derta.plan.settings import Settings
from derta.plan.shape import ModelShape

NF4 = 1 / 2 + 1 / 64 + 4 / (64 * 256)
EIGHT_BITS = 2 * (1 + 4 / 256)
_SUB_GROUP = 1_000_000_000  # DeepSpeed's own default, in elements (deepspeed.runtime.zero.config)


def _model_states(shape: ModelShape, settings: Settings) -> tuple[int, int, int, int]:
    """Weights, gradients, optimizer state, and the float32 gradients while the optimizer steps."""
    p, t, d = shape.parameters, shape.trainable, settings.ranks
    if settings.stage is None:
        adapters = t * (4 - settings.weight) if settings.lora else 0  # PEFT keeps adapters in float32
        shards = d if settings.fsdp2 else 1
        held = settings.held * p + adapters - _rounded(shape, settings)
        gradient = 2 if settings.optimizer == "adamw_kahan" else 4
        return held // shards, gradient * t // shards, _moments(shape, settings) // shards, 0
    share = t / d
    whole = settings.stage == 3 and shape.small * settings.weight
    weights = settings.weight * (p / d if settings.stage == 3 else p) + whole - _rounded(shape, settings)
    gradients = settings.weight * (t if settings.stage == 1 else share)
    stepping = 4 * min(share, _SUB_GROUP) if settings.stage == 3 else (4 + settings.weight) * share
    return int(weights), int(gradients), int(12 * share), int(stepping)  # float32 weights are cloned, too


def _rounded(shape: ModelShape, settings: Settings) -> int:
    """What four bits save of the base."""
    return int((settings.weight - NF4) * shape.linear) if settings.four_bits else 0


def _moments(shape: ModelShape, settings: Settings) -> int:
    if settings.optimizer == "adamw_kahan":
        return 6 * shape.trainable
    if "8bit" not in settings.optimizer:
        return 8 * shape.trainable
    wide = 0 if settings.lora else shape.embedding
    return int(8 * wide + EIGHT_BITS * (shape.trainable - wide))


def buffer_bytes(shape: ModelShape, settings: Settings) -> int:
    """Communication buffers and gathered parameters.

    none: DDP's flat buckets (a copy of all gradients) with several ranks. ZeRO-1 and 2: the reduce bucket, twice where
    communication overlaps. ZeRO-3: reduce and prefetch buckets, parameters that may be gathered at a time
    (stage3_max_live_parameters), and the head, which the fused loss gathers as a whole. FSDP2: the head, the layer in
    use, the next one and the buffer it arrives in; a layer's gradients, again in float32 while they are reduced.
    """
    if settings.fsdp2:
        trained = shape.trainable // shape.layers if settings.lora else shape.layer
        return settings.weight * (shape.embedding + 3 * shape.layer) + (settings.weight + 4) * trained
    if settings.stage is None:
        return _model_states(shape, settings)[1] if settings.ranks > 1 else 0
    bucket = settings.weight * settings.reduce_bucket
    if settings.stage < 3:
        return bucket * (2 if settings.overlap else 1)
    gathered = max(min(shape.parameters, settings.live), shape.embedding + shape.layer, shape.largest)
    return bucket + settings.weight * (gathered + settings.prefetch)


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank, GPU and host. activations: from forward to backward; working: what the largest step between
    them takes (derta/plan/activations.py). The optimizer step's float32 gradients come when both are gone, and
    `first_forwards`, of two models, before there is anything but weights: `peak` is the largest of the moments."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    working: int
    buffers: int
    reference: int
    fp32_gradients: int
    first_forwards: int
    host: int

    @property
    def peak(self) -> int:
        lasting = self.weights + self.gradients + self.optimizer + self.reference + self.buffers
        return max(lasting + max(self.activations + self.working, self.fp32_gradients), self.first_forwards)


def rank_memory(shape: ModelShape, settings: Settings) -> RankMemory:
    weights, gradients, optimizer, stepping = _model_states(shape, settings)
    reference, host, kept = weights if settings.reference else 0, 0, kept_bytes(shape, settings)
    if settings.optimizer.startswith("paged"):
        resident = min(optimizer, 8 * shape.largest_trained)
        host, optimizer = optimizer - resident, resident
    if settings.activations_on_host:
        on_gpu = min(kept, stashed_bytes(shape, settings))
        host, kept = host + kept - on_gpu, on_gpu
    if settings.offload_optimizer:  # gradients go to the host as they are made, and the step is taken there
        host += optimizer + gradients + stepping
        optimizer = gradients = stepping = 0
    if settings.offload_parameters:
        host += weights
        weights = settings.weight * shape.small
    working, buffers, first = working_bytes(shape, settings), buffer_bytes(shape, settings), 0
    if settings.weighted:  # only DeepSpeed has an optimizer by then
        engine = optimizer + buffers if settings.stage is not None else 0
        first = 2 * weights - settings.wide_adapters * 4 * shape.trainable + working + engine
    return RankMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=kept,
        working=working,
        buffers=buffers,
        reference=reference,
        fp32_gradients=stepping,
        first_forwards=first,
        host=host,
    )


def host_bytes(shape: ModelShape, settings: Settings, memory: RankMemory, ranks_here: int) -> dict[str, int]:
    """Of one host with `ranks_here` ranks. Under ZeRO-3 and FSDP2 its first rank alone reads the files
    (transformers.modeling_utils); else every rank builds the whole model on its host before it moves to the GPU, but
    for a base in four bits, which goes there tensor by tensor."""
    model = shape.parameters * settings.held * (2 if settings.reference else 1)
    if settings.four_bits:
        model = shape.largest * settings.weight
    readers = 1 if settings.stage == 3 or settings.fsdp2 else ranks_here
    return {"loading": model * readers, "offload": memory.host * ranks_here}


def disk_bytes(shape: ModelShape, settings: Settings) -> dict[str, int]:
    """One checkpoint-N, and the final model (or adapter). ZeRO-1 and ZeRO-2 write the 16-bit weights a second time, as
    DeepSpeed's module states, FSDP2 the float32 ones as shares of the ranks; frozen weights are left out."""
    model = settings.held * shape.parameters if not settings.lora else 4 * shape.trainable
    if settings.lora and settings.stage is not None:
        model = settings.weight * shape.trainable
    optimizer = _moments(shape, settings) if settings.stage is None else 12 * shape.trainable
    module = settings.weight * shape.trainable if settings.stage in (1, 2) else model if settings.fsdp2 else 0
    return {"model": model, "checkpoint": model + optimizer + module}
