"""Typed configuration: one dataclass per Hydra group, each default in one place; YAML in conf/ holds differences only.

Nothing here imports torch, so `--help` and wrong values answer at once.
"""

from derta.config.data import DataConfig, ProbeConfig
from derta.config.model import Dtype, ModelConfig
from derta.config.objective import AblationConfig, Arm, ObjectiveConfig
from derta.config.run import TrainRunConfig
from derta.config.training import (
    DistributedConfig,
    LoggingConfig,
    OptimConfig,
    PeftConfig,
    PeftMethod,
    TrainerConfig,
)

__all__ = [
    "AblationConfig",
    "Arm",
    "DataConfig",
    "DistributedConfig",
    "Dtype",
    "LoggingConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PeftConfig",
    "PeftMethod",
    "ProbeConfig",
    "TrainRunConfig",
    "TrainerConfig",
]
