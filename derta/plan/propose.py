"""The cheapest choice that fits: ZeRO stage, optimizer, micro-batch, checkpointing, and LoRA, QLoRA or more GPUs where
nothing else does.

Cheap is what costs least time per token, by rules of thumb that are stated here and not measured:

    checkpointing     a second forward: 8 instead of 6 FLOPs per weight, with a frozen base 6 instead of 4
    ZeRO-3            1.5 times the communication of ZeRO-1 and 2 (arXiv 1910.02054, section 7.2), of which most hides
                      behind computation: 10%
    offload           the step is taken on the CPU: 2.5 times; activations wait on the host: 1.2 times
    optimizer         8-bit moments (full tuning without ZeRO) are turned into numbers and back: 1.05 times; paged ones
                      come from the host and go back: 1.3 times
    small batches     a micro-batch of n tokens fills a GPU to n / (n + 512)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from derta.config import Arm, DistributedConfig, PeftMethod
from derta.config.compose import read
from derta.config.plan import PlanRunConfig
from derta.config.training import Optimizer
from derta.models.devices import Gpu
from derta.plan.memory import RankMemory, rank_memory
from derta.plan.settings import Settings
from derta.plan.shape import ModelShape, model_shape

STRATEGIES = {"none": 1.0, "zero1": 1.0, "zero2": 1.0, "zero3": 1.1, "zero3_offload": 2.5}
OPTIMIZERS = {"adamw": 1.0, "adamw_kahan": 1.0, "adamw_8bit": 1.05, "paged_adamw_32bit": 1.3, "paged_adamw_8bit": 1.3}
_SMALLER: tuple[Optimizer, ...] = ("adamw_8bit", "paged_adamw_8bit")
_TO_THE_HOST = 1.2
_HALF_FULL = 512  # tokens
_MOST_GPUS = 512


@dataclass(frozen=True)
class Proposal:
    """overrides: what to add to the command. host: bytes of each node for what is offloaded. cost: time per token
    against the cheapest imaginable choice."""

    overrides: list[str]
    memory: RankMemory
    host: int
    cost: float


@cache
def strategy_config(name: str) -> DistributedConfig:
    """A choice of conf/distributed/."""
    return read("plan", PlanRunConfig, [f"distributed={name}"])[0].distributed


def micro_batches(config: PlanRunConfig) -> list[int]:
    """Powers of two that divide a rank's share of the global batch, largest first."""
    share, rest = divmod(config.trainer.batch, config.world_size)
    return [] if rest else [2**n for n in range(8, -1, -1) if share % 2**n == 0]


def propose(config: PlanRunConfig, shape: ModelShape, gpu: Gpu) -> Proposal | None:
    """The cheapest choice that fits these GPUs as the model is trained now; else with LoRA; else with QLoRA; else on
    more GPUs. None where nothing fits."""
    found = _cheapest(config, shape, gpu, [])
    if found is None and config.peft.method is PeftMethod.none:
        lora = replace(config, peft=replace(config.peft, method=PeftMethod.lora))
        found = _cheapest(lora, model_shape(lora), gpu, ["peft=lora", "optim=lora"])
    if found is None and config.peft.method is not PeftMethod.qlora:
        qlora = replace(config, peft=replace(config.peft, method=PeftMethod.qlora))
        words = ["peft=qlora", *(["optim=lora"] if config.peft.method is PeftMethod.none else [])]
        found = _cheapest(qlora, model_shape(qlora), gpu, words)
    ranks = config.world_size
    while found is None and ranks < min(_MOST_GPUS, config.trainer.batch):
        ranks *= 2
        found = _cheapest(replace(config, world_size=ranks), shape, gpu, [f"world_size={ranks}"])
    return found


def _cheapest(config: PlanRunConfig, shape: ModelShape, gpu: Gpu, overrides: list[str]) -> Proposal | None:
    fitting = [choice for choice in _choices(config, shape, overrides) if choice.memory.peak <= gpu.usable]
    return min(fitting, key=lambda choice: choice.cost, default=None)


def _choices(config: PlanRunConfig, shape: ModelShape, overrides: list[str]) -> Iterator[Proposal]:
    lora = config.peft.method is not PeftMethod.none
    recompute = 1.5 if lora else 4 / 3
    ways = [(False, False, 1.0), (True, False, recompute), (True, True, recompute * _TO_THE_HOST)]
    for strategy, optimizer in _strategies(config):
        for micro, (checkpointing, offloading, time) in itertools.product(micro_batches(config), ways):
            trainer = replace(
                config.trainer,
                micro_batch_size=micro,
                gradient_checkpointing=checkpointing,
                activation_offloading=offloading,
            )
            optim = replace(config.optim, name=optimizer)
            choice = replace(config, distributed=strategy_config(strategy), trainer=trainer, optim=optim)
            tokens = micro * config.data.max_length * (2 if config.objective.name is Arm.dpo else 1)
            memory = rank_memory(shape, Settings.of(choice, shape))
            changed = {
                "optim.name": (config.optim.name, optimizer),
                "trainer.activation_offloading": (config.trainer.activation_offloading, offloading),
            }
            yield Proposal(
                overrides=[
                    *overrides,
                    f"distributed={strategy}",
                    f"trainer.micro_batch_size={micro}",
                    f"trainer.gradient_checkpointing={str(checkpointing).lower()}",
                    *(f"{key}={str(new).lower()}" for key, (old, new) in changed.items() if old != new),
                ],
                memory=memory,
                host=memory.host * config.ranks_per_node,
                cost=STRATEGIES[strategy] * OPTIMIZERS[optimizer] * time * (1 + _HALF_FULL / tokens),
            )


def _strategies(config: PlanRunConfig) -> Iterator[tuple[str, Optimizer]]:
    """A choice of conf/distributed/ and the optimizer that goes with it."""
    method, own = config.peft.method, config.optim.name
    for strategy in STRATEGIES:
        if method is PeftMethod.qlora and strategy.startswith("zero3"):
            continue  # weights of four bits are not cut up
        if method is not PeftMethod.none and strategy == "zero3_offload":
            continue  # there is next to no optimizer to offload
        yield strategy, own if strategy == "none" else "adamw"
        if strategy == "none" and method is PeftMethod.none:
            yield from ((strategy, name) for name in _SMALLER if name != own)
