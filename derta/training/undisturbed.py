"""Looking at a model in the middle of its training without the training noticing."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

Name = TypeVar("Name")


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


def on_all_ranks(
    trainer: Any, lengths: Mapping[Name, int], run: Callable[[list[Name]], Iterable[torch.Tensor]]
) -> dict[Name, torch.Tensor]:
    """float32 [length] of each of the rows named in `lengths`, on the CPU of every rank; every rank must call it.

    Batch j of rank r holds every R-th of R x B rows, from the r-th on, so that the ranks' batches are equally long
    where the longest row comes first. The last ones are filled up with the last row: under ZeRO-3 all ranks must run
    the model equally often.

    Args:
        run: what this rank computes of a batch of rows, [length] of each.
    """
    size, accelerator = trainer.args.per_device_train_batch_size, trainer.accelerator  # fits with gradients, too
    ranks, rank = accelerator.num_processes, accelerator.process_index
    names, width = list(lengths), max(lengths.values())
    found: dict[Name, torch.Tensor] = {}
    names += names[-1:] * (-len(names) % (ranks * size))
    for first in range(0, len(names), ranks * size):
        together = names[first : first + ranks * size]
        padded = torch.zeros((size, width), device=accelerator.device)
        for row, values in zip(padded, run(together[rank::ranks]), strict=True):
            row[: len(values)] = values
        gathered = accelerator.gather(padded).view(ranks, size, width).transpose(0, 1).reshape(-1, width).cpu()
        found |= {name: row[: lengths[name]].clone() for name, row in zip(together, gathered, strict=True)}
    return found
