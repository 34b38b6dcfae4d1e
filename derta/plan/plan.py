"""A plan: what a configuration needs on named GPUs, as data, as JSON and as a table."""

import shlex
from dataclasses import asdict, dataclass, replace
from typing import Any

from derta.config import PeftMethod
from derta.config.plan import PlanRunConfig
from derta.models.devices import CONTEXT, GIB, GPUS, HEADROOM, Gpu
from derta.plan.duration import Duration, count_rows, plan_duration
from derta.plan.memory import RankMemory, disk_bytes, host_bytes, rank_memory
from derta.plan.propose import Proposal, propose
from derta.plan.settings import Settings
from derta.plan.shape import ModelShape, model_shape

ASSUMPTIONS = (
    "memory: the longest row has data.max_length tokens, and every position is supervised",
    "time: rows have tokens_per_row tokens (null: data.max_length); the MFU is the stated one, not measured",
    f"{CONTEXT / GIB:.1f} GiB of the GPU go to CUDA and NCCL; {HEADROOM:.0%} of the rest stay free, because the "
    "allocator's fragmentation was not measured",
    "attention keeps no s x s scores (sdpa, varlen, flash); model.attn_implementation=eager is counted as such",
    "4-bit weights, 8-bit and paged moments and activations on the host are arithmetic that no GPU has confirmed",
    "rows are flattened without a mask where trainer.padding_free=auto allows it on a GPU",
)


@dataclass(frozen=True)
class Plan:
    """settings: what was asked for. accumulation: micro-batches of a step. memory: of one rank. host (of one node),
    disk: bytes by purpose."""

    shape: ModelShape
    gpu: Gpu
    settings: Settings
    accumulation: int
    memory: RankMemory
    host: dict[str, int]
    disk: dict[str, int]
    duration: Duration
    mfu: float
    proposal: Proposal | None

    @property
    def fits(self) -> bool:
        return self.memory.peak <= self.gpu.usable

    def to_dict(self) -> dict[str, Any]:
        """Bytes, parameters and seconds as plain numbers."""
        best = self.proposal
        return {
            "model": asdict(self.shape),
            "device": self.gpu.name,
            "world_size": self.settings.ranks,
            "settings": {**asdict(self.settings), "accumulation": self.accumulation},
            "rank_bytes": {**asdict(self.memory), "peak": self.memory.peak, "usable": self.gpu.usable},
            "fits": self.fits,
            "host_bytes": self.host,
            "disk_bytes": self.disk,
            "duration": {**asdict(self.duration), "mfu": self.mfu},
            "proposal": best and {"overrides": best.overrides, "peak": best.memory.peak, "host": best.host},
            "assumptions": list(ASSUMPTIONS),
        }


def make_plan(config: PlanRunConfig) -> Plan:
    """Raises InputError for an architecture that is not known here, LoRA targets that it does not have, or data at
    data.path that training could not use."""
    rows = count_rows(config)
    config = replace(config, trainer=replace(config.trainer))
    config.trainer.settle_batch(rows.examples, config.world_size)
    shape, gpu = model_shape(config), GPUS[config.device]
    settings = Settings.of(config, shape)
    memory = rank_memory(shape, settings)
    return Plan(
        shape=shape,
        gpu=gpu,
        settings=settings,
        accumulation=config.trainer.accumulation_steps(config.world_size),
        memory=memory,
        host=host_bytes(shape, settings, memory, config.ranks_per_node),
        disk=disk_bytes(shape, settings),
        duration=plan_duration(config, shape, gpu, rows, lora=config.peft.method is not PeftMethod.none),
        mfu=config.mfu,
        proposal=propose(config, shape, gpu) if config.propose else None,
    )


def render(plan: Plan) -> str:
    """The plan as text for a terminal."""
    shape, settings, memory, duration = plan.shape, plan.settings, plan.memory, plan.duration
    parts = {
        "weights": memory.weights,
        "reference model": memory.reference,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "buffers, gathered": memory.buffers,
        "kept for the backward": memory.activations,
        "at work: a layer or head": memory.working,
        "optimizer step, instead": memory.fp32_gradients,
        "two models before step 1": memory.first_forwards,
    }
    share = 100 * shape.trainable / shape.parameters
    lines = [
        f"{shape.name} ({shape.source})",
        f"{shape.parameters:,} parameters, {shape.trainable:,} trained ({share:.2f}%)",
        "",
        f"asked for: {_asked(plan)}",
        "",
        f"one of {settings.ranks} x {plan.gpu.name}" + " " * 10 + "GiB",
        *(f"  {name:<26}{value / GIB:>9.2f}" for name, value in parts.items() if value),
        f"  {'peak':<26}{memory.peak / GIB:>9.2f}   of {plan.gpu.usable / GIB:.1f} usable "
        f"({plan.gpu.memory / GIB:.1f} less {CONTEXT / GIB:.1f} and {HEADROOM:.0%} headroom): "
        + ("fits" if plan.fits else "DOES NOT FIT"),
        "",
        f"host of a node, loading  {plan.host['loading'] / GIB:>9.1f} GiB",
        f"host of a node, offload  {plan.host['offload'] / GIB:>9.1f} GiB",
        f"disk, final model        {plan.disk['model'] / GIB:>9.1f} GiB",
        f"disk, per checkpoint     {plan.disk['checkpoint'] / GIB:>9.1f} GiB",
        "",
        f"rows: {duration.rows}",
        f"{duration.trained:,} training rows an epoch, {duration.steps:,} steps, at most {duration.tokens:,} tokens, "
        f"{duration.hours:.2f} hours at {100 * plan.mfu:.0f}% MFU ({duration.tokens_per_second:,.0f} tokens/s)",
    ]
    if plan.proposal is not None:
        host = f", and {plan.proposal.host / GIB:.0f} GiB of host memory on each node" if plan.proposal.host else ""
        lines += [
            "",
            f"cheapest that fits ({plan.proposal.memory.peak / GIB:.1f} GiB{host}):",
            "  " + shlex.join(plan.proposal.overrides),
        ]
    elif not plan.fits:
        lines += ["", "nothing that was tried fits: neither LoRA, QLoRA nor more GPUs"]
    return "\n".join([*lines, "", *(f"assumed: {line}" for line in ASSUMPTIONS)])


def _asked(plan: Plan) -> str:
    settings = plan.settings
    strategy = f"ZeRO-{settings.stage}" if settings.stage is not None else "FSDP2" if settings.fsdp2 else "no sharding"
    moved = [n for n, on in (("optimizer", settings.offload_optimizer), ("weights", settings.offload_parameters)) if on]
    offload = f" ({' and '.join(moved)} offloaded)" if moved else ""
    method = "QLoRA" if settings.four_bits else "LoRA" if settings.lora else "full"
    method += f", {settings.optimizer}" if settings.optimizer != "adamw" else ""
    rows = {0: "flattened", settings.length: "padded"}.get(settings.keys, "flattened under a mask")
    return (
        f"{strategy}{offload}, {method}, micro-batch of {settings.rows} x "
        f"{settings.length:,} tokens, {rows}, {plan.accumulation} of them per GPU and step, "
        f"{'with' if settings.checkpointing else 'without'} checkpointing"
        + (", activations on the host" if settings.activations_on_host else "")
    )
