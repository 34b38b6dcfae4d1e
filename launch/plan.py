"""Plan: what a training run needs (memory, disk, time), whether it fits, and the cheapest choice that does.

    python launch/plan.py +experiment=llama3_8b_full world_size=8 device=h100_80 [mfu=0.3] [output=plan.json]

From the configuration alone, without weights, GPU or network. Keys of a plan: derta/config/plan.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import hydra
from omegaconf import DictConfig

from derta.config.compose import launch, register_schema, reporting_errors, to_config
from derta.config.plan import PlanRunConfig

register_schema("plan_schema", PlanRunConfig)


def problems(cfg: DictConfig) -> list[str]:
    return to_config(cfg, PlanRunConfig).plan_problems()


def plan(cfg: DictConfig) -> None:
    from derta.errors import InputError
    from derta.plan.plan import make_plan, render
    from derta.storage.atomic import write_json_atomically

    config = to_config(cfg, PlanRunConfig)
    made = make_plan(config)
    print(render(made))
    if config.output:
        try:
            write_json_atomically(Path(config.output), json.loads(json.dumps(made.to_dict())))
        except OSError as error:
            raise InputError(f"output={config.output} cannot be written: {error.strerror}") from error


@hydra.main(version_base="1.3", config_path="../conf", config_name="plan")
def main(cfg: DictConfig) -> None:
    reporting_errors(plan, cfg)


if __name__ == "__main__":
    launch(main, "plan", problems)
