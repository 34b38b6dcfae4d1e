"""derta: safety fine-tuning for language models that can stop in the middle of a harmful answer.

Names are imported when they are used, so that `import derta` and `--help` stay instant.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from derta.data.build import build as build_dataset
    from derta.data.load import load_rows
    from derta.data.recipe import load_recipe
    from derta.errors import InputError
    from derta.models.refusal_stop import RefusalStop
    from derta.training.config import DeRTaConfig
    from derta.training.trainer import DeRTaTrainer

__version__ = "0.1.0"

# PEFT imports it where it is installed, and on a CPU it recommends a package that would download kernels to run.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

_WHERE = {  # public name: module, name there
    "DeRTaConfig": ("derta.training.config", "DeRTaConfig"),
    "DeRTaTrainer": ("derta.training.trainer", "DeRTaTrainer"),
    "InputError": ("derta.errors", "InputError"),
    "RefusalStop": ("derta.models.refusal_stop", "RefusalStop"),
    "build_dataset": ("derta.data.build", "build"),
    "load_recipe": ("derta.data.recipe", "load_recipe"),
    "load_rows": ("derta.data.load", "load_rows"),
}

__all__ = ["DeRTaConfig", "DeRTaTrainer", "InputError", "RefusalStop", "build_dataset", "load_recipe", "load_rows"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'derta' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
