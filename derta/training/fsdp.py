"""Weights, gradients and optimizer state sharded by torch's fully_shard (FSDP2): what accelerate leaves to do.

    masters   float32 DTensors, a rank's share of each decoder layer and of what is around them
    compute   whole layers, gathered one at a time in the precision of the run; gradients are reduced in float32
    saved     per checkpoint: every rank's share (torch.distributed.checkpoint), and the whole model as safetensors

accelerate takes fully_shard on GPUs alone, and trains ranks on CPUs data-parallel without a word. It looks at nothing
but the kind of its ranks, so ranks on CPUs are called GPUs before it looks: from there on, wrapping, clipping, saving
and resuming are the same lines of accelerate, transformers and torch on both, and gloo or NCCL below them. What differs
on a GPU: streams overlap communication with computation, and TRL's head runs in Triton. Unverified on a GPU; tests run
torch 2.13 and accelerate 1.15.
"""

from typing import Any, TypeVar

import torch
from accelerate.utils import DistributedType, enable_fsdp_ram_efficient_loading
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer, TrainingArguments

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def sharding() -> dict[str, Any]:
    """The arguments of transformers that ask for FSDP2; it fills the nested ones in place."""
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "state_dict_type": "SHARDED_STATE_DICT",  # no rank holds the optimizer state of all of them
            "cpu_ram_efficient_loading": True,  # the first rank of a host reads the model, and hands it out
        },
        # Else every rank keeps whole gradients while it accumulates.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def shard_fully(args: Arguments) -> Arguments:
    """Arguments with FSDP2, in force from here on: what is loaded next is loaded to be sharded."""
    enable_fsdp_ram_efficient_loading()
    if args.bf16:  # accelerate's own policy reduces gradients and rounds log-probabilities in bfloat16
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        args.fsdp_plugin_args["mixed_precision_policy"] = policy
    if args.distributed_state.distributed_type is DistributedType.MULTI_CPU:
        args.distributed_state.distributed_type = DistributedType.MULTI_GPU
    return args


class SavesWhole(Trainer):
    """A trainer whose `save_model` gathers the model on the first rank (of LoRA, the adapters alone). With sharded
    checkpoints transformers saves none."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self.is_fsdp_enabled:
            return super().save_model(output_dir, _internal_call)
        adapters = hasattr(self.model, "peft_config")
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapters)
        state = get_model_state_dict(self.model, options=options)
        for name in getattr(self.model, "all_tied_weights_keys", {}):  # gathered twice, and no longer one tensor
            state.pop(name, None)
        self._save(output_dir, state_dict=state)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)
