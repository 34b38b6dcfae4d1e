"""Train: `torchrun --nproc_per_node N launch/train.py [group=choice] [key=value]`, or `python` for one process."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from derta.config import TrainRunConfig
from derta.config.compose import launch, register_schema, reporting_errors, to_config, world_size

register_schema("train_schema", TrainRunConfig)


def problems(cfg: DictConfig) -> list[str]:
    return to_config(cfg, TrainRunConfig).problems(world_size())


def train(cfg: DictConfig) -> None:
    from derta.release.hub import train_and_push

    train_and_push(to_config(cfg, TrainRunConfig))


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> None:
    reporting_errors(train, cfg)


if __name__ == "__main__":
    launch(main, "config", problems, sweep_hint="python launch/sweep.py -m")
