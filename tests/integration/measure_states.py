"""`torchrun measure_states.py OUTPUT`: bytes of weights, gradients and optimizer states that two ranks hold under ZeRO
or FSDP2, and of the checkpoint that they write.

Every case trains a small Llama for two steps of two micro-batches with DeRTaTrainer, as a choice of
conf/distributed/ has it. Gradients are counted between the micro-batches, where they are complete and not yet used up;
storages are counted once, whatever number of tensors looks at them.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import deepspeed
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerFast

from derta import DeRTaConfig, DeRTaTrainer
from derta.config import TrainRunConfig
from derta.config.compose import configure
from derta.training.fsdp import shard_fully, sharding

SIZES = {
    "small": {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2},
    "deep": {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6},
    "wide": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2},
}
SHAPE = {"vocab_size": 600, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
REQUIRED = (
    "model=miniature",
    "model.name_or_path=any",
    "data.path=any",
    "output_dir=any",
    "trainer.global_batch_size=16",
)
LORA = {"r": 32, "lora_alpha": 16, "lora_dropout": 0.0, "task_type": "CAUSAL_LM"}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = [
    *(("fsdp2", "wide", "bfloat16", method) for method in ("none", "lora")),
    *((stage, size, "bfloat16", "none") for stage in (1, 2, 3) for size in SIZES),
    *((stage, "wide", "bfloat16", "lora") for stage in (1, 3)),
    *((stage, "wide", "float32", "none") for stage in (1, 2, 3)),
]


def config_of(size: str) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        **SHAPE, **SIZES[size], bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=False
    )


def _storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Storage address -> bytes, of tensors that hold any."""
    found = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes():
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return found


def _local(tensors: Iterable[Any]) -> list[torch.Tensor]:
    """This rank's share of each; every one of them must be sharded."""
    sharded = [tensor for tensor in tensors if tensor is not None]
    assert sharded and all(isinstance(tensor, DTensor) for tensor in sharded)
    return [tensor.to_local() for tensor in sharded]


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif isinstance(value, torch.Tensor) or not isinstance(value, (list, tuple)):
        return [value]
    return [item for part in value for item in _flat(part)]


class Measure(transformers.TrainerCallback):
    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        engine = self.trainer.model_wrapped
        if self.trainer.is_fsdp_enabled:
            self.bytes["gradients"] = sum(_storages(_local(p.grad for p in engine.parameters())).values())
            return
        zero = engine.optimizer
        tensors = [getattr(p, name, None) for p in engine.module.parameters() for name in ("grad", "grad_accum")]
        for name in ("averaged_gradients", "all_grad_tensors", "grad_partitions_flat_buffer"):
            tensors += _flat(getattr(zero, name, None))
        self.bytes["gradients"] = sum(_storages(tensors).values())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        engine = self.trainer.model_wrapped
        if self.trainer.is_fsdp_enabled:
            self.bytes["weights"] = sum(_storages(_local(engine.parameters())).values())
            moments = [
                values[name] for values in kwargs["optimizer"].state.values() for name in ("exp_avg", "exp_avg_sq")
            ]
            self.bytes["optimizer"] = sum(_storages(_local(moments)).values())
            return
        zero = engine.optimizer
        parameters = list(engine.module.parameters())
        weights = _storages([p.data for p in parameters] + [getattr(p, "ds_tensor", None) for p in parameters])
        masters = _flat(getattr(zero, "single_partition_of_fp32_groups", None))
        masters += _flat(getattr(zero, "fp32_partitioned_groups_flat", None))
        moments = [value for entry in zero.optimizer.state.values() for value in entry.values()]
        optimizer = _storages(masters + moments)
        self.bytes["weights"] = sum(weights.values())
        self.bytes["optimizer"] = sum(size for address, size in optimizer.items() if address not in weights)


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<eos>", "Sorry", "word", *(f"w{i}" for i in range(50))]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="word"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="word")
    fast.chat_template = (
        "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
    )
    return fast


def says(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def measure(stage: int | str, size: str, dtype: str, method: str, rows: Dataset, place: str) -> dict[str, Any]:
    if stage == "fsdp2":
        engine = sharding()
    else:
        config = configure("train", TrainRunConfig, [f"distributed=zero{stage}", *REQUIRED])
        engine = {"deepspeed": config.distributed.deepspeed}
    args = DeRTaConfig(
        place, **engine, use_cpu=True, bf16=dtype == "bfloat16", report_to=[],
        save_strategy="no", disable_tqdm=True, max_length=32, max_steps=2, per_device_train_batch_size=2,
        gradient_accumulation_steps=2, activation_checkpointing=False, dataloader_pin_memory=False,
    )  # fmt: skip
    if stage == "fsdp2":
        shard_fully(args)
    torch.manual_seed(0)
    held = "float32" if (stage, method) == ("fsdp2", "none") else dtype
    model = transformers.AutoModelForCausalLM.from_config(config_of(size), dtype=getattr(torch, held))
    adapter = LoraConfig(**LORA, target_modules=TARGETS) if method == "lora" else None
    callback = Measure()
    trainer = DeRTaTrainer(
        model, args=args, train_dataset=rows, processing_class=tokenizer(), peft_config=adapter, callbacks=[callback]
    )
    callback.trainer = trainer
    trainer.train()
    trainer._save_checkpoint(trainer.model_wrapped, trial=None)
    torch.distributed.barrier()
    saved = [path for path in Path(place, "checkpoint-2").rglob("*") if path.is_file()]
    disk = sum(path.stat().st_size for path in saved)
    torch.distributed.barrier()
    os.environ.pop("ACCELERATE_USE_FSDP", None)  # by which accelerate would have FSDP in the next case, too
    if os.environ["RANK"] == "0":
        shutil.rmtree(place)
    return {"stage": stage, "size": size, "dtype": dtype, "method": method, **callback.bytes, "disk": disk}


def main() -> None:
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    rows = Dataset.from_list(
        [
            {
                "id": str(i),
                "prompt": says("user", f"w{i}"),
                "chosen": says("assistant", "Sorry word"),
                "rejected": says("assistant", f"w{i} w1 w2"),
            }
            for i in range(16)
        ]
    )
    output = Path(sys.argv[1]).absolute()
    found = [measure(*case, rows, str(output.with_name("checkpoints"))) for case in CASES]
    if os.environ["RANK"] == "0":
        output.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
