"""A plan: what a configuration needs on named GPUs, as data, as JSON and as a table."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from typing import Any

from derta.config import PeftMethod
from derta.config.plan import PlanRunConfig
from derta.models.devices import GIB, GPUS
from derta.plan.duration import Duration, plan_duration
from derta.plan.memory import RankMemory, Settings, disk_bytes, host_bytes, rank_memory
from derta.plan.propose import Proposal, propose
from derta.plan.shape import ModelShape, model_shape

ASSUMPTIONS = (
    "rows are as long as data.max_length and every position is supervised, unless tokens_per_row says less",
    "the MFU is the stated one; it is not measured",
    "1.5 GiB of the GPU go to CUDA and NCCL, 5% of the rest to fragmentation",
    "attention keeps no s x s scores (sdpa, flash); model.attn_implementation=eager is counted as such",
)


@dataclass(frozen=True)
class Plan:
    """memory: of one rank. host, disk: bytes by purpose."""

    shape: ModelShape
    device: str
    ranks: int
    memory: RankMemory
    usable: int
    host: dict[str, int]
    disk: dict[str, int]
    duration: Duration
    mfu: float
    proposal: Proposal | None

    @property
    def fits(self) -> bool:
        return self.memory.peak <= self.usable

    def to_dict(self) -> dict[str, Any]:
        """Bytes, parameters and seconds as plain numbers."""
        proposal = self.proposal and {"overrides": self.proposal.overrides, "peak": self.proposal.memory.peak}
        return {
            "model": asdict(self.shape),
            "device": self.device,
            "world_size": self.ranks,
            "rank_bytes": {**asdict(self.memory), "peak": self.memory.peak, "usable": self.usable},
            "fits": self.fits,
            "host_bytes": self.host,
            "disk_bytes": self.disk,
            "duration": {**asdict(self.duration), "mfu": self.mfu},
            "proposal": proposal,
            "assumptions": list(ASSUMPTIONS),
        }


def make_plan(config: PlanRunConfig) -> Plan:
    """Raises InputError for an architecture that is not known here, or LoRA targets that it does not have."""
    shape, gpu = model_shape(config), GPUS[config.device]
    settings = Settings.of(config, shape)
    memory = rank_memory(shape, settings)
    return Plan(
        shape=shape,
        device=gpu.name,
        ranks=config.world_size,
        memory=memory,
        usable=gpu.usable,
        host=host_bytes(shape, settings, memory, min(config.world_size, config.gpus_per_node)),
        disk=disk_bytes(shape, settings),
        duration=plan_duration(config, shape, gpu, lora=config.peft.method is PeftMethod.lora),
        mfu=config.mfu,
        proposal=propose(config, shape, gpu) if config.propose else None,
    )


def render(plan: Plan) -> str:
    """The plan as text for a terminal."""
    shape, memory, duration = plan.shape, plan.memory, plan.duration
    parts = {
        "weights": memory.weights,
        "reference model": memory.reference,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "head: gradient, tiles": memory.head,
        "buffers, gathered": memory.buffers,
    }
    share = 100 * shape.trainable / shape.parameters
    lines = [
        f"{shape.name} ({shape.source})",
        f"{shape.parameters:,} parameters, {shape.trainable:,} trained ({share:.2f}%)",
        "",
        f"one of {plan.ranks} x {plan.device}" + " " * 10 + "GiB",
        *(f"  {name:<26}{value / GIB:>9.2f}" for name, value in parts.items() if value),
        f"  {'peak':<26}{memory.peak / GIB:>9.2f}   of {plan.usable / GIB:.1f} usable: "
        + ("fits" if plan.fits else "DOES NOT FIT"),
        "",
        f"host, loading            {plan.host['loading'] / GIB:>9.1f} GiB",
        f"host, offload            {plan.host['offload'] / GIB:>9.1f} GiB",
        f"disk, final model        {plan.disk['model'] / GIB:>9.1f} GiB",
        f"disk, per checkpoint     {plan.disk['checkpoint'] / GIB:>9.1f} GiB",
        "",
        f"{duration.triples:,} triples and {duration.helpful:,} helpful rows: {duration.rows:,} training rows an epoch",
        f"{duration.steps:,} steps, at most {duration.tokens:,} tokens, {duration.hours:.1f} hours at "
        f"{100 * plan.mfu:.0f}% MFU ({duration.tokens_per_second:,.0f} tokens/s)",
    ]
    if plan.proposal is not None:
        lines += [
            "",
            f"cheapest that fits ({plan.proposal.memory.peak / GIB:.1f} GiB):",
            "  " + shlex.join(plan.proposal.overrides),
        ]
    elif not plan.fits:
        lines += ["", "nothing that was tried fits: neither LoRA nor more GPUs"]
    return "\n".join([*lines, "", *(f"assumed: {line}" for line in ASSUMPTIONS)])
