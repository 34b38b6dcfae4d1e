"""A base model in four bits for QLoRA (Dettmers et al., arXiv 2305.14314), by bitsandbytes, which also has 8-bit AdamW.

    nf4    4 bits per weight, a scale for every 64 weights; double quantisation holds the scales in 8 bits
    what   linear layers; head and embeddings keep their precision (TRL's fused head reads the head's weight itself)

The adapters are trained against the base as it is rounded, and merge into the base as it was (derta/release/export.py).
"""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any

from derta.errors import InputError

if TYPE_CHECKING:
    import torch


def check_bitsandbytes(wanted: str) -> None:
    """Raises InputError if bitsandbytes is not installed. wanted: the setting that needs it."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"{wanted} needs bitsandbytes, which is not installed: pip install 'derta[quantization]'")


def in_four_bits(dtype: str, device: torch.device) -> dict[str, Any]:
    """Arguments of `load_model` for a base in nf4 that computes in `dtype`; it is rounded on `device` as it is read."""
    import torch
    from transformers import BitsAndBytesConfig

    rounding = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": rounding, "device_map": {"": device}}


def is_in_four_bits(model: Any) -> bool:
    """Of a model, or of the base below an adapter."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def ready_for_training(model: Any) -> None:
    """Undo, in a model whose base is in four bits, two things that others do to it; call it once adapters are on it.

    TRL rounds the adapters to bfloat16, where steps at the end of a schedule are lost: they are float32, as those on
    any other base (DeepSpeed rounds them itself, and keeps masters). And on CPUs with avx512_bf16 bitsandbytes replaces
    a weight, once it is used in evaluation mode, by another layout, which has no gradient.
    """
    if not is_in_four_bits(model):
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def elements(weight: torch.Tensor) -> int:
    """How many numbers a weight stands for: in four bits a byte holds two, under ZeRO-3 a rank holds a part."""
    rounded = getattr(weight, "quant_state", None)
    return math.prod(rounded.shape) if rounded is not None else getattr(weight, "ds_numel", weight.numel())
