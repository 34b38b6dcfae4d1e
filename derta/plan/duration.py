"""Steps, tokens and hours, for a stated share of the GPU's peak rate.

Model FLOPs per token (Kaplan et al., arXiv 2001.08361, section 2.1; Chowdhery et al., arXiv 2204.02311, appendix B):

    products with weights    2 forward + 2 for the inputs' gradient + 2 for the weights' gradient, per active parameter;
                             a frozen base has no weights' gradient
    attention scores         forward 2 x 2 x s A per layer, half of it masked away; twice that in the backward

What is computed a second time under checkpointing is no model FLOP: it lowers the MFU that a run reaches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from derta.config import Arm
from derta.config.plan import PlanRunConfig
from derta.data.manifest import read_manifest
from derta.models.devices import Gpu
from derta.plan.shape import ModelShape

# 60,000 Evol-Instruct rows and 3,000 triples: arXiv 2407.09121, section 4.1.
_PAPER_HELPFUL, _PAPER_TRIPLES = 60_000, 3_000


@dataclass(frozen=True)
class Duration:
    """rows: training rows of one epoch. tokens: of the whole run, padding included. hours: at the stated MFU."""

    triples: int
    helpful: int
    rows: int
    steps: int
    tokens: int
    flops_per_token: float
    tokens_per_second: float
    hours: float


def count_rows(config: PlanRunConfig) -> tuple[int, int]:
    """(triples, helpful rows): as stated, else as the manifest of data.path says, else the paper's mix.

    Raises:
        InputError: a manifest that cannot be read.
    """
    triples, helpful = config.triples, config.helpful
    if triples is not None or helpful is not None:
        return triples or 0, helpful or 0
    manifest = read_manifest(Path(config.data.path)) if Path(config.data.path).is_dir() else None
    if manifest is not None:
        kinds = manifest["outputs"]["train.parquet"]["rows_by_kind"]
        return kinds.get("safety", 0), kinds.get("helpful", 0)
    return _PAPER_TRIPLES, _PAPER_HELPFUL


def training_rows(config: PlanRunConfig, triples: int, helpful: int) -> int:
    """Rows of an epoch: a triple makes its MLE and transition rows, and an RTO row in the arms that have one; DPO sees
    pairs only."""
    if config.objective.name is Arm.dpo:
        return triples
    rto = config.objective.name in (Arm.rto, Arm.derta)
    objective = config.objective
    return triples * (objective.mle_copies + objective.transition_copies + rto) + helpful


def flops_per_token(shape: ModelShape, length: int, *, lora: bool) -> float:
    base = shape.active - (shape.trainable if lora else 0)
    weights = 4 * base + 6 * shape.trainable if lora else 6 * shape.active
    return weights + 3 * 2 * length * shape.attention * shape.layers


def plan_duration(config: PlanRunConfig, shape: ModelShape, gpu: Gpu, *, lora: bool) -> Duration:
    triples, helpful = count_rows(config)
    rows = training_rows(config, triples, helpful)
    trainer = config.trainer
    batch = trainer.global_batch_size or min(trainer.batch, rows)
    steps = math.ceil(trainer.epochs * math.ceil(rows / batch)) if trainer.max_steps < 1 else trainer.max_steps
    length = config.tokens_per_row or config.data.max_length
    sequences = steps * batch * (2 if config.objective.name is Arm.dpo else 1)
    flops = flops_per_token(shape, length, lora=lora)
    if config.objective.name is Arm.dpo:
        flops += flops / 3 if not lora else flops / 2  # the reference model's forward
    rate = config.world_size * gpu.peak * config.mfu / flops
    tokens = sequences * length
    return Duration(triples, helpful, rows, steps, tokens, flops, rate, tokens / rate / 3600)
