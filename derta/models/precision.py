"""The precision a model computes in, where `model.dtype=auto` leaves it to the machine.

On an accelerator it is bfloat16. On a CPU bfloat16 is faster only where the CPU multiplies in it and the model is large
enough for matrix products to decide: forward and backward of 1,024 tokens of a Llama of 135M parameters take 5.5 s in
float32 and 1.8 s in bfloat16 (two cores with avx512_bf16); the miniature (0.8M) is 2 to 12 times slower in bfloat16.
"""

import contextlib
import math
from pathlib import Path
from typing import Any

from derta.config.model import Dtype, ModelConfig
from derta.models.fingerprint import base_of
from derta.models.load import check_source

LARGE_ON_CPU = 50_000_000
"""Parameters beyond which bfloat16 is the faster precision of a CPU that has it."""


def resolve_dtype(config: ModelConfig) -> str:
    """torch's name of the precision that `config` asks for. Raises InputError: no such model."""
    import torch

    if config.dtype is not Dtype.auto:
        return config.dtype.value
    if torch.accelerator.is_available():
        return "bfloat16"
    return "bfloat16" if cpu_multiplies_in_bfloat16() and _is_large(config) else "float32"


def stored_dtype(name_or_path: str, revision: str | None = None, trust_remote_code: bool = False) -> str:
    """torch's name of the precision that a model's configuration says its weights are stored in; float32 if none."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    dtype = config.get_text_config().dtype or config.dtype
    return str(dtype or "float32").removeprefix("torch.")


def cpu_multiplies_in_bfloat16() -> bool:
    """Whether the CPU has the instructions of x86 for it. Not known, and so no: other processors, torch before 2.11."""
    import torch

    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def _is_large(model: ModelConfig) -> bool:
    """By the weights in a directory (of an adapter: its base's); a model on the hub is taken to be large."""
    source = check_source(base_of(model).name_or_path)
    return not isinstance(source, Path) or parameters_in(source) > LARGE_ON_CPU


def parameters_in(directory: Path) -> int:
    """Elements of all tensors in the *.safetensors of a directory, from their headers; 0 for what cannot be read."""
    from safetensors import SafetensorError, safe_open

    total = 0
    for file in directory.glob("*.safetensors"):
        with contextlib.suppress(SafetensorError), safe_open(file, "np") as tensors:  # loading says what is wrong
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
    return total
