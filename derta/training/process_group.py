"""The ranks of a run: how they find one another, agree on who speaks first, and part."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils.other import get_free_port

from derta.config import DistributedConfig
from derta.config.failures import is_main_rank, world_size
from derta.errors import InputError


def start_group(config: DistributedConfig) -> None:
    """ZeRO and FSDP2 need their process group before the model is read, or every rank would believe it is alone.

    Raises InputError: DeepSpeed is not installed; FSDP2 on one rank."""
    if config.fsdp2 and world_size() == 1:
        raise InputError("distributed=fsdp2 on one rank has nothing to shard: use torchrun, or distributed=none")
    timeout = timedelta(minutes=config.timeout_minutes)
    if config.deepspeed is not None:
        try:
            import deepspeed
        except ModuleNotFoundError as error:
            what = "distributed.deepspeed needs DeepSpeed, which pip installs with derta on Linux alone"
            raise InputError(f"{what}: take distributed=none, or pip install deepspeed") from error
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if "RANK" not in os.environ:  # plain `python`: a group of one
            os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
            os.environ.setdefault("MASTER_PORT", str(get_free_port()))
        deepspeed.init_distributed(dist_backend=backend, verbose=False, timeout=timeout)
    elif world_size() > 1:
        PartialState(cpu=not torch.accelerator.is_available(), timeout=timeout)


@contextlib.contextmanager
def main_rank_first() -> Iterator[None]:
    """Rank 0 looks at the directory before the others do, so that one message tells what is wrong with it."""
    grouped = dist.is_available() and dist.is_initialized()
    if grouped and not is_main_rank():
        dist.barrier()
    try:
        yield
    finally:  # also when rank 0 refuses: the others then find what it found
        if grouped and is_main_rank():
            dist.barrier()
    if grouped:
        dist.barrier()  # before rank 0 goes on and writes


def leave_group(trainer: Any) -> None:
    trainer.accelerator.wait_for_everyone()
    if dist.is_initialized():
        dist.destroy_process_group()
