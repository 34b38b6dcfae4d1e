"""The diagnostic of many checkpoints, one after another, and their table.

    LABEL=DIR ...  -->  OUTPUT/LABEL-1/direction.json, OUTPUT/LABEL-2/ ... (seeds of one arm)  -->  table and figure

What is done already is not done again. A model that refuses nothing, such as a base, is looked at without the filter of
prompts, and its result says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from derta.config.compose import command_line_problems, register_schema, to_config
from derta.config.direction import DiagnoseRunConfig
from derta.config.shipped import CONF_DIR
from derta.direction.collect import collect
from derta.direction.diagnose import DIRECTION_JSON, diagnose
from derta.direction.forward import AllFiltered
from derta.direction.report import percent
from derta.errors import InputError


def study(models: Sequence[str], output: str | Path, overrides: Sequence[str] = ()) -> str:
    """Diagnose every model and return the table.

    Args:
        models: LABEL=DIR each.
        overrides: key=value, as launch/diagnose_direction.py takes them, for all models alike.

    Raises:
        InputError: models without a label, wrong overrides, and whatever the diagnostic raises.
    """
    output = Path(output)
    named = [model.split("=", 1) for model in models]
    if wrong := [model for model, parts in zip(models, named, strict=True) if len(parts) < 2 or not all(parts)]:
        raise InputError(f"expected LABEL=DIR for every model, got {', '.join(wrong)}")
    register_schema("diagnose_schema", DiagnoseRunConfig)
    problems = command_line_problems(list(overrides), "diagnose_direction", _problems)
    if problems:
        raise InputError.listing("this configuration cannot run:", problems)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        common = to_config(compose("diagnose_direction", list(overrides)), DiagnoseRunConfig)
    folders, seen = [], Counter[str]()
    for label, model in named:
        seen[label] += 1
        folders.append(output / f"{label}-{seen[label]}")
        config = replace(
            common, model=replace(common.model, name_or_path=model), label=label, output_dir=str(folders[-1])
        )
        unfiltered = replace(config, direction=replace(config.direction, filter_prompts=False))
        try:
            report = diagnose(unfiltered if _done_unfiltered(folders[-1]) else config)
        except AllFiltered:
            report = diagnose(unfiltered)
        score = report["ablation_robustness"]
        print(f"{label}-{seen[label]}: ablation robustness {percent(score)} {score['reason']}".rstrip(), flush=True)
    return collect(folders, output)


def _done_unfiltered(folder: Path) -> bool:
    """Whether an earlier study has found this model to refuse nothing."""
    try:
        return json.loads((folder / DIRECTION_JSON).read_text(encoding="utf-8"))["filtered"] is False
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _problems(cfg: DictConfig) -> list[str]:
    return to_config(cfg, DiagnoseRunConfig).problems()
