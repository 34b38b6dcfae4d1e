"""Export: a plain Hugging Face directory out of a run; a LoRA adapter is merged into its base, and logits are compared.

    python launch/export.py source=RUN output=DIR [base=DIR] [dtype=bfloat16] [tolerance=0.1]

source may also be a checkpoint (runs/NAME/checkpoint-N), or an unfinished run, whose newest complete one is taken.
"""

from __future__ import annotations

import logging

import hydra
from omegaconf import DictConfig

from derta.config.compose import launch, register_schema, reporting_errors, to_config
from derta.config.export import ExportConfig

register_schema("export_schema", ExportConfig)


def problems(cfg: DictConfig) -> list[str]:
    return to_config(cfg, ExportConfig).problems()


def run(cfg: DictConfig) -> None:
    from derta.release.export import export

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(export(to_config(cfg, ExportConfig)))


@hydra.main(version_base="1.3", config_path="../conf", config_name="export")
def main(cfg: DictConfig) -> None:
    reporting_errors(run, cfg)


if __name__ == "__main__":
    launch(main, "export", problems)
