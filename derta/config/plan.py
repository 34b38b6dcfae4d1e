"""What `launch/plan.py` is asked: a training configuration, and the machines it would run on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le

from derta.config.run import TrainRunConfig
from derta.config.settings import Choice, Count, Name, Text, Whole


class Device(Choice):
    """The GPU; what each can do and hold stands in derta/models/devices.py."""

    a100_40 = "a100_40"
    a100 = "a100"
    h100 = "h100"
    h200 = "h200"
    b200 = "b200"
    l40s = "l40s"
    rtx4090 = "rtx4090"
    mi300x = "mi300x"

    @classmethod
    def _missing_(cls, value: object) -> Device | None:
        """Names with the memory behind, as they were once: a100_80, h100_80, h200_141."""
        return {"a100_80": cls.a100, "h100_80": cls.h100, "h200_141": cls.h200}.get(str(value))


@dataclass(kw_only=True, slots=True)
class PlanRunConfig(TrainRunConfig):
    """What `launch/plan.py` plans: a configuration of launch/train.py, and the machines. It reads data.path
    to count its rows where it is there, and needs no data otherwise."""

    world_size: Count = 8
    """GPUs of the run."""
    gpus_per_node: Count = 8
    """How many of them share a host."""
    device: Device = Device.h100
    mfu: Annotated[float, Gt(0), Le(1)] = 0.3
    """Share of the GPU's peak rate that becomes model FLOPs (arXiv 2204.02311, appendix B); assumed, not measured.
    Published: 33% for 8B on 8 H100 (torchtitan's 5,762 tokens/s/GPU), 40% for 70B LoRA on 8 A100 (torchtune)."""
    triples: Whole | None = None
    """Rows with a safe and a harmful response; null counts them in data.path, or takes the paper's mix (3,000 triples,
    60,000 helpful rows) where nothing is there."""
    helpful: Whole | None = None
    """Rows without a harmful response; null as for `triples`."""
    tokens_per_row: Count | None = None
    """Mean length; null takes data.max_length, an upper bound."""
    output: Text | None = None
    """JSON file for the plan, null for the table alone."""
    propose: bool = True
    """Look for the cheapest choice that fits, too."""

    @property
    def ranks(self) -> int:
        return self.world_size

    @property
    def ranks_per_node(self) -> int:
        return min(self.world_size, self.gpus_per_node)

    def missing(self) -> Iterator[str]:
        if not self.model.name_or_path.strip():
            yield "model.name_or_path is empty: give a model directory or a hub id"

    def conflicts(self, key: Name) -> Iterator[str]:
        yield from TrainRunConfig.conflicts(self, key)
        if (self.triples, self.helpful) == (0, 0):
            yield "triples=0 and helpful=0: a plan needs rows"
        if self.tokens_per_row is not None and self.tokens_per_row > self.data.max_length:
            yield f"tokens_per_row={self.tokens_per_row}: expected 1 to data.max_length={self.data.max_length}"
