"""Steps, tokens and hours, for a stated share of the GPU's peak rate.

Model FLOPs per token (Kaplan et al., arXiv 2001.08361, section 2.1; Chowdhery et al., arXiv 2204.02311, appendix B):

    products with weights    2 forward + 2 for the inputs' gradient + 2 for the weights' gradient, per active parameter;
                             a frozen base has no weights' gradient
    attention scores         forward 2 x 2 x s A per layer, half of it masked away; twice that in the backward

What is computed a second time under checkpointing is no model FLOP: it lowers the MFU that a run reaches.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from derta.config import Arm
from derta.config.plan import PlanRunConfig
from derta.data.load import load_rows
from derta.errors import InputError
from derta.models.devices import Gpu
from derta.plan.shape import ModelShape
from derta.storage.read_files import what_is_at

# 60,000 Evol-Instruct rows and 3,000 triples: arXiv 2407.09121, section 4.1.
_PAPER_TRIPLES, _PAPER_HELPFUL = 3_000, 60_000


@dataclass(frozen=True)
class Rows:
    """What the data hold. triples: a safe and a harmful response. helpful: all rows with a safe or helpful response
    alone. harmful: rows with a harmful response alone, as already expanded data have. source: how this is known."""

    triples: int
    helpful: int
    harmful: int
    source: str

    @property
    def examples(self) -> int:
        return self.triples + self.helpful + self.harmful

    def __str__(self) -> str:
        alone = f", {self.harmful:,} rows of a harmful response alone" if self.harmful else ""
        return f"{self.triples:,} triples, {self.helpful:,} rows without a harmful response{alone} ({self.source})"


@dataclass(frozen=True)
class Duration:
    """trained: training rows of one epoch. tokens: of the whole run, padding included. hours: at the stated MFU."""

    rows: Rows
    trained: int
    steps: int
    tokens: int
    flops_per_token: float
    tokens_per_second: float
    hours: float


def count_rows(config: PlanRunConfig) -> Rows:
    """As stated, else as data.path holds them, else the paper's mix.
    Raises InputError: data.path is there and training could not read it either."""
    if config.triples is not None or config.helpful is not None:
        return Rows(config.triples or 0, config.helpful or 0, 0, "as stated")
    path, data_format = config.data.path, config.data.format
    if not path or what_is_at(Path(path).expanduser()) == "nothing":
        where = f"data.path={path} is not there" if path else "data.path is empty"
        keys = f"assumed, the paper's mix, because {where}: set data.path and data.format, or triples and helpful"
        return Rows(_PAPER_TRIPLES, _PAPER_HELPFUL, 0, keys)
    table = load_rows(path, data_format).dataset.data
    safe, harmful = (table.num_rows - table[name].null_count for name in ("chosen", "rejected"))
    triples = safe + harmful - table.num_rows  # every row holds one of the two
    return Rows(triples, safe - triples, harmful - triples, f"counted in {path}")


def training_rows(config: PlanRunConfig, rows: Rows) -> int:
    """Rows of an epoch: a triple makes its MLE and transition rows, and an RTO row in the arms that have one; DPO sees
    pairs only.
    Raises InputError: there are none."""
    objective = config.objective
    rto = objective.name.rows.harmful
    copies = objective.mle_copies + objective.transition_copies + rto
    others = rows.helpful + rows.harmful * rto
    trained = rows.triples if objective.name is Arm.dpo else rows.triples * copies + others
    if trained == 0:
        raise InputError(f"objective={objective.name.value} finds no row to train on among {rows}")
    return trained


def flops_per_token(shape: ModelShape, length: int, *, lora: bool) -> float:
    base = shape.active - (shape.trainable if lora else 0)
    weights = 4 * base + 6 * shape.trainable if lora else 6 * shape.active
    return weights + 3 * 2 * length * shape.attention * shape.layers


def plan_duration(config: PlanRunConfig, shape: ModelShape, gpu: Gpu, rows: Rows, *, lora: bool) -> Duration:
    trained, trainer = training_rows(config, rows), config.trainer
    batch = trainer.batch
    steps = math.ceil(trainer.epochs * math.ceil(trained / batch)) if trainer.max_steps < 1 else trainer.max_steps
    length = config.tokens_per_row or config.data.max_length
    sequences = steps * batch * (2 if config.objective.name is Arm.dpo else 1)
    flops = flops_per_token(shape, length, lora=lora)
    if config.objective.name is Arm.dpo:
        flops += flops / 3 if not lora else flops / 2  # the reference model's forward
    rate = config.world_size * gpu.peak * config.mfu / flops
    tokens = sequences * length
    return Duration(rows, trained, steps, tokens, flops, rate, tokens / rate / 3600)
