"""Looking at a model in the middle of its training without the training noticing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, at even distances: the same ones in every run."""
    return list(items) if len(items) <= count else [items[i * len(items) // count] for i in range(count)]


def is_sharded(trainer: Any) -> bool:
    """Whether the model can be run only through its engine."""
    return trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled


@contextlib.contextmanager
def undisturbed(trainer: Any) -> Iterator[Any]:
    """The model to call, in evaluation mode and without gradients; afterwards random state and modes are what they
    were. Sharded models are run through their engine, on all ranks alike; under plain data parallelism the model itself
    is whole."""
    model = trainer.model_wrapped if is_sharded(trainer) else trainer.model
    training = [module for module in model.modules() if module.training]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        model.eval()
        try:
            yield model
        finally:
            for module in training:
                module.training = True
