"""Two evaluated checkpoints, prompt by prompt: differences of outcomes, length and format with 95% intervals.

    python launch/compare.py before=DIR after=DIR [output=FILE.json] [seed=0]

Both are folders of finished evaluations of the same prompts with the same judge. Prompts are resampled, together with
both checkpoints' responses to them (paired bootstrap).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import hydra
from omegaconf import DictConfig

from derta.config.compose import launch, register_schema, reporting_errors, to_config
from derta.config.evaluation import CompareRunConfig

register_schema("compare_schema", CompareRunConfig)


def problems(cfg: DictConfig) -> list[str]:
    return to_config(cfg, CompareRunConfig).problems()


def compare(cfg: DictConfig) -> None:
    from derta.errors import InputError
    from derta.evaluation.compare import compare_evaluations, describe_comparison
    from derta.storage.atomic import write_json_atomically

    config = to_config(cfg, CompareRunConfig)
    compared = compare_evaluations(config.before, config.after, seed=config.seed)
    print(describe_comparison(compared))
    if config.output:
        try:
            write_json_atomically(Path(config.output), asdict(compared))
        except OSError as error:
            raise InputError(f"output={config.output} cannot be written: {error.strerror}") from error


@hydra.main(version_base="1.3", config_path="../conf", config_name="compare")
def main(cfg: DictConfig) -> None:
    reporting_errors(compare, cfg)


if __name__ == "__main__":
    launch(main, "compare", problems)
