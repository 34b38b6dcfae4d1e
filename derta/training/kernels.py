"""The kernels a run computes with, where they are not those that the model comes with.

    trainer.compile   decoder layers compiled one by one, in place: names in checkpoints stay, lengths are dynamic
    trainer.liger     RMSNorm, rotary embedding and SwiGLU of Liger; never its loss, which knows no objectives
    adapters          float32 adapters below a bfloat16 autocast take their input as it is: PEFT would cast it to
                      float32, drop it there, and autocast casts it back, once for each adapted layer
    cuDNN             builds a plan for every new (batch, length) that sdpa is given, 0.3 s each on an H200; without it,
                      sdpa takes kernels that need none

What was compared on a CPU is in tests/unit/training/test_kernels.py; on a GPU none of it is verified.
"""

import importlib.util
import logging
import os
import shutil
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import TrainerCallback

from derta.config.training import TrainerConfig
from derta.errors import InputError
from derta.training.undisturbed import is_sharded

logger = logging.getLogger(__name__)

COMPILED = "compiled_graphs"


def check_kernels(settings: TrainerConfig) -> None:
    """Raises InputError where this machine cannot run the kernels that are asked for."""
    on_gpu = torch.cuda.is_available()
    if settings.liger and not on_gpu:
        raise InputError("trainer.liger=true: Liger's kernels are written for GPUs, and there is none: set it to false")
    if settings.liger and importlib.util.find_spec("liger_kernel") is None:
        raise InputError("trainer.liger=true needs the package liger-kernel: pip install 'derta[liger]', or set false")
    if settings.compile and not _has_compiler(on_gpu):
        what = "Triton" if on_gpu else "a C++ compiler (g++ or clang++, or the one that CXX names)"
        raise InputError(f"trainer.compile=true needs {what}, and there is none: install it, or set false")


def _has_compiler(on_gpu: bool) -> bool:
    if on_gpu:
        return importlib.util.find_spec("triton") is not None
    return any(map(shutil.which, [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]))


def fuse(model: Any) -> None:
    """Give a model, below any adapter, Liger's kernels. Raises InputError: Liger has none for it."""
    from liger_kernel.transformers import monkey_patch

    kind = model.config.model_type
    if kind not in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise InputError(f"trainer.liger=true: Liger has no kernels for models of type {kind!r}: set it to false")
    monkey_patch._apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)


class CompiledLayers(TrainerCallback):
    """Compiles the decoder layers when training begins, once the model is wrapped, and adds `compiled_graphs` to every
    log line: how many graphs the run has compiled. It should stay at a few; one that grows with the steps says that
    something else than a length changes."""

    def __init__(self, backend: str = "inductor"):
        self.backend, self._before = backend, 0

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        names = set(getattr(model, "_no_split_modules", None) or ())  # of an adapted model: the base's
        layers = [module for module in model.modules() if type(module).__name__ in names]
        if not layers:
            raise InputError(f"trainer.compile=true: {type(model).__name__} does not name its layers: set false")
        for layer in layers:
            layer.compile(dynamic=True, backend=self.backend)
        self._before = _graphs()
        logger.info("compiles %d layers; the first steps wait for the compiler", len(layers))

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        logs[COMPILED] = _graphs() - self._before


def _graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def settle_kernels(trainer: Any) -> None:
    """On a GPU: adapters without float32, and sdpa without cuDNN's plans, whichever attention leaves batches to it."""
    if trainer.args.device.type != "cuda":
        return
    if trainer.args.bf16 and not is_sharded(trainer):  # where adapters are in 16 bit
        leave_inputs(trainer.model)
    torch.backends.cuda.enable_cudnn_sdp(False)


class _OutsideAutocast:
    """True where nobody else casts: `generate` goes past the autocast of training."""

    def __bool__(self) -> bool:
        return not (torch.is_autocast_enabled("cuda") or torch.is_autocast_enabled("cpu"))


def leave_inputs(model: Any) -> None:
    """Below autocast adapters take their input in its own precision. The numbers are equal to the last bit without
    dropout; a CPU drops in bfloat16 with a factor 1 / (1 - p) that is itself rounded, so it keeps the cast."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = _OutsideAutocast()  # type: ignore[attr-defined]
