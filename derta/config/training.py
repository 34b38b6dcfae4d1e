"""`optim`, `trainer`, `peft` and `distributed`: how a run is trained; `logging`: where its curves go."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, Predicate

from derta.config.settings import Choice, Count, Name, NotNegative, Positive, Settings, Text, Whole

Scheduler = Literal[  # of transformers, those that need no arguments of their own
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]
Optimizer = Literal["adamw", "adamw_kahan", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"]
_LARGEST_BETA = 1 - 2**-8  # beyond it the decay of a bfloat16 moment may round to nothing
_NO_DECAY = 2**-25  # 1 - so much is 1 in float32, too; in bfloat16 1 - 2^-9 is 1
Difference = Literal["data", "objective", "world_size", "pickles"]
_NOT_IN_PROJECTS = "/\\#?%:"
_LONGEST_PROJECT = 128
_HUB_ID = re.compile(r"([\w.-]+/)?\w[\w.-]{0,95}", re.ASCII)
_BATCH = 128  # the paper's
_LARGEST_SEED = 2**32 - 1  # NumPy's limit
_LONGEST_TIMEOUT = 365 * 24 * 60  # what any clock type underneath can hold


def _names_a_project(text: str) -> bool:
    return not set(text) & set(_NOT_IN_PROJECTS)


def _share_or_steps(warmup: float) -> bool:
    return warmup <= 1 or warmup.is_integer()


def _names_a_repository(text: str) -> bool:
    return _HUB_ID.fullmatch(text) is not None


@dataclass(kw_only=True, slots=True)
class OptimConfig(Settings):
    """AdamW. Defaults: the paper's full fine-tuning."""

    name: Optimizer = "adamw"
    """adamw is torch's. adamw_8bit holds the moments in 8 bits, those of the embedding in 32. paged_...: they lie in
    memory that GPU and host share, and leave the GPU where it is full; a resumed run has them on the GPU, where
    bitsandbytes loads them. These are bitsandbytes' (derta[quantization]).
    adamw_kahan is optimi's (derta[kahan]): weights, gradients and moments in bfloat16, and what rounding takes from an
    update is kept for the next one; 10 bytes a weight instead of 16. It needs adam_beta2=0.99. Unverified on a GPU. All
    but the first are not for DeepSpeed and FSDP2, which cut the moments up by rank."""
    learning_rate: Positive = 2e-5
    """Peak learning rate."""
    scheduler: Scheduler = "cosine"
    """Schedule of the learning rate, by its name in transformers."""
    warmup: Annotated[NotNegative, Predicate(_share_or_steps), "a share of all steps below 1, or whole steps"] = 0.03
    """A share of all steps below 1, else a number of steps."""
    weight_decay: NotNegative = 2e-5
    """Decoupled weight decay."""
    max_grad_norm: NotNegative = 1.0
    """Gradients are clipped to this global norm; 0 leaves them as they are."""
    adam_beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Decay of the second moment."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if self.name == "adamw_kahan" and self.adam_beta2 > _LARGEST_BETA:
            yield (
                f"{key('name')}={self.name} with {key('adam_beta2')}={self.adam_beta2}: second moments in bfloat16 "
                f"would never fall (v x beta2 rounds to v); set {key('adam_beta2')}=0.99"
            )
        if self.name == "adamw_kahan" and self.learning_rate * self.weight_decay > _NO_DECAY:
            yield (
                f"{key('name')}={self.name} with {key('weight_decay')}={self.weight_decay}: weights in bfloat16 would "
                f"not decay (1 - learning_rate x weight_decay rounds to 1); set {key('weight_decay')}=0"
            )


@dataclass(kw_only=True, slots=True)
class TrainerConfig(Settings):
    """The loop. Gradient accumulation is derived: global_batch_size / (micro_batch_size x ranks)."""

    global_batch_size: Count | None = None
    """Rows per optimizer step, over all ranks; null is 128, or all rows where the data hold fewer."""
    micro_batch_size: Count = 8
    """Rows per forward of a rank."""
    epochs: Positive = 2.0
    """Times that all rows are seen."""
    max_steps: Annotated[
        int,
        Predicate(lambda steps: steps >= 1 or steps == -1),
        "a whole number, at least 1, or -1 to count epochs instead",
    ] = -1
    """Optimizer steps; -1 for `epochs` epochs."""
    seed: Annotated[int, Ge(0), Le(_LARGEST_SEED)] = 42
    """Of everything that is drawn: order of the rows, prefixes, dropout."""
    shuffle: bool = True
    """Draw a new order of the rows every epoch."""
    padding_free: Annotated[Literal["auto"] | bool, "auto, true or false"] = "auto"
    """Rows of a batch one behind the other, without padding. auto: on a CUDA GPU in 16 bit, where the model's attention
    is sdpa and FlashAttention 3, torch's own varlen kernel or FlashAttention 2 can take its place, or where it is
    flash_attention_2, flash_attention_3, flex_attention or varlen already. true keeps the model's attention; with sdpa
    and eager it takes a mask of all tokens by all tokens."""
    pad_to_multiple_of: Count | None = None
    """Batches are padded to a multiple of so many tokens, so that GPU libraries see few shapes and plan for each once;
    null is 16 on an accelerator and 1 on a CPU."""
    compile: bool = False
    """Compile the decoder layers, each by itself and for any length: fewer kernels, behind a minute or so of compiling.
    Results differ by rounding. Not verified on a GPU."""
    liger: bool = False
    """RMSNorm, rotary embedding and SwiGLU by Liger's kernels, which need a GPU and derta[liger]; never Liger's loss.
    Not verified on a GPU."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    activation_offloading: bool = False
    """Keep what the backward pass needs in the host's memory until then; with gradient_checkpointing that is the inputs
    of the layers. Needs a GPU, and with ZeRO-3 and FSDP2 gradient_checkpointing."""
    logging_steps: Count = 10
    """Steps between two lines of metrics.jsonl."""
    eval_steps: Whole = 50
    """How often P(refusal) is measured on held-out rows (see `probe`); 0 never."""
    save_steps: Whole = 0
    """Steps between two checkpoints; 0 saves only the final model."""
    save_total_limit: Count | None = 2
    """Checkpoints kept; null keeps all."""
    resume: str = "auto"
    """auto (newest complete checkpoint of this run), never, or a checkpoint directory."""
    resume_despite: list[Difference] = field(default_factory=list)
    """Differences that may lie between a checkpoint and the run that goes on from it: data (other rows: the order goes
    on by step, so some rows may come again and others not at all), objective (other settings, on the same weights and
    optimizer state), world_size (another number of ranks; not with DeepSpeed), pickles (DeepSpeed's or FSDP2's state
    from outside the run's own directory: reading it can run code)."""
    skip_grad_norm_above: Positive | None = None
    """Updates whose global gradient norm is larger are left out and counted; null leaves none out."""
    num_workers: Whole = 0
    """Loader processes per rank."""
    push_to_hub: bool = False
    """Send the finished model to the hub (see derta/release/hub.py)."""
    hub_model_id: Annotated[str, Predicate(_names_a_repository), "NAME or ACCOUNT/NAME"] | None = None
    """Repository it is sent to; null takes the name of output_dir, under your account."""
    hub_private_repo: bool = True
    """Into a private repository only."""

    @property
    def batch(self) -> int:
        """Rows per optimizer step."""
        return self.global_batch_size or _BATCH

    def settle_batch(self, rows: int, world_size: int) -> None:
        """Where no global batch is given, take what so many rows allow, in whole micro-batches of all ranks."""
        step = self.micro_batch_size * world_size
        self.global_batch_size = self.global_batch_size or min(_BATCH, max(step, rows // step * step))

    def accumulation_steps(self, world_size: int) -> int:
        """Micro-batches per rank and optimizer step."""
        return self.batch // (self.micro_batch_size * world_size)


class PeftMethod(Choice):
    """none: all weights are trained. lora: low-rank adapters on `target_modules`. qlora: the same on a base whose
    linear layers, but for the head, are in 4 bits (nf4, double quantisation; needs derta[quantization])."""

    none = "none"
    lora = "lora"
    qlora = "qlora"


@dataclass(kw_only=True, slots=True)
class PeftConfig(Settings):
    """LoRA with the paper's shape."""

    method: PeftMethod = PeftMethod.none
    r: Count = 96
    """Rank of the adapters."""
    alpha: Count = 16
    """Adapters are scaled by alpha / r."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.05
    """Probability that an input of an adapter is dropped."""
    target_modules: Annotated[list[Text], MinLen(1), "a list of module names [first,second], or [all-linear]"] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    """Module names, or [all-linear]."""
    target_parameters: Annotated[list[Text], "a list of parameter names [first,second]"] = field(default_factory=list)
    """Parameters that are no module of their own, as the stacked experts of a mixture (mlp.experts.gate_up_proj); PEFT
    adapts them without dropout only."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if self.target_parameters and self.dropout:
            yield (
                f"{key('dropout')}={self.dropout} with {key('target_parameters')}: PEFT cannot drop inputs of bare "
                f"parameters; set {key('dropout')}=0"
            )
        if "lm_head" in self.target_modules:
            yield f"{key('target_modules')} holds lm_head, whose adapter TRL's fused head would never train: drop it"
        if self.method is not PeftMethod.none and "all-linear" in self.target_modules[1:]:
            yield f"{key('target_modules')}: all-linear stands for all modules and must be the only entry"


@dataclass(kw_only=True, slots=True)
class DistributedConfig(Settings):
    """How ranks share the work."""

    deepspeed: dict[str, Any] | None = None
    """A DeepSpeed configuration as data (see conf/distributed/), "auto" fields filled in by Hugging Face; null for one
    process, plain data parallelism or FSDP2."""
    fsdp2: bool = False
    """Shard weights, gradients and optimizer state over the ranks with torch's fully_shard (FSDP2)."""
    timeout_minutes: Annotated[float, Gt(0), Le(_LONGEST_TIMEOUT)] = 30.0
    """How long a rank waits for the others."""

    def conflicts(self, key: Name) -> Iterator[str]:
        zero = (self.deepspeed or {}).get("zero_optimization")
        stage = zero.get("stage") if isinstance(zero, dict) else None
        if self.deepspeed is not None and stage not in (0, 1, 2, 3):
            place = key("deepspeed.zero_optimization.stage")
            yield f"{place}={stage}: expected 0, 1, 2 or 3 (see conf/distributed/)"
        if self.fsdp2 and self.deepspeed is not None:
            yield f"{key('fsdp2')}=true with {key('deepspeed')}: both shard the model; use distributed=fsdp2 or zero3"


@dataclass(kw_only=True, slots=True)
class LoggingConfig(Settings):
    """Curves in W&B; metrics.jsonl is always written."""

    wandb_mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online when a W&B key is configured, else offline (files only, no account)."""
    project: Annotated[
        Text,
        Predicate(_names_a_project),
        MaxLen(_LONGEST_PROJECT),
        f"a name of at most {_LONGEST_PROJECT} characters, none of {' '.join(_NOT_IN_PROJECTS)} (W&B refuses them)",
    ] = "derta"
    """Project in W&B."""
    run_name: str | None = None
    """Name of the run in W&B; null takes the output directory's name."""
    tags: list[Annotated[Text, MaxLen(64), "text of at most 64 characters (W&B takes no more)"]] = field(
        default_factory=list
    )
    """Tags of the run in W&B, beside those it always has: arm, base model, and full or lora."""
    group: Text | None = None
    """Group of the run in W&B; null takes the name of the sweep's root, and no group without a sweep."""
    sample_texts: bool = False
    """Upload a few decoded training rows to W&B; off, because they may hold harmful text."""
    peak_flops: Annotated[float, Gt(0), "FLOP/s of one device (9.89e14, say)"] | None = None
    """FLOP/s of one device in the run's precision, which `mfu` is measured against; null takes the data sheet's figure
    of a known GPU in 16 bit, and `mfu` is left out where there is none (on a CPU, say)."""
