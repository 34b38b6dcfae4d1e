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
    fitting = [pair for pair in _choices(config, shape, overrides) if pair[0].memory.peak <= gpu.usable]
    fitting.sort(key=lambda pair: pair[0].cost)
    return next((proposal for proposal, choice in fitting if not choice.problems()), None)


def _choices(
    config: PlanRunConfig, shape: ModelShape, overrides: list[str]
) -> Iterator[tuple[Proposal, PlanRunConfig]]:
    """With the configuration that each makes, which training may refuse."""
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
            proposal = Proposal(
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
            yield proposal, choice


def _strategies(config: PlanRunConfig) -> Iterator[tuple[str, Optimizer]]:
    """A choice of conf/distributed/ and the optimizer that goes with it."""
    full, own = config.peft.method is PeftMethod.none, config.optim.name
    yield from (("none", name) for name in dict.fromkeys((own, "adamw", *(_SMALLER if full else ()))))
    sharded = list(STRATEGIES)[1:] if full else ["zero1", "zero2", "zero3"]  # LoRA has next to nothing to offload
    yield from ((strategy, "adamw") for strategy in sharded)
