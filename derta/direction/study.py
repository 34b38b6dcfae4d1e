"""The diagnostic of many checkpoints, one after another, and their table.

    {LABEL: DIR}  -->  OUTPUT/LABEL-1/direction.json, OUTPUT/LABEL-2/ ... (seeds of one arm)  -->  table and figure

What is done already is not done again. A model that refuses nothing, such as a base, is looked at without the filter of
prompts, and its result says so.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from derta.config.direction import DiagnoseRunConfig, StudyRunConfig
from derta.direction.collect import collect
from derta.direction.diagnose import DIRECTION_JSON, diagnose
from derta.direction.forward import AllFiltered
from derta.direction.report import percent


def study(settings: StudyRunConfig) -> str:
    """Diagnose every model and return the table.

    Raises:
        InputError: whatever the diagnostic raises.
    """
    output, folders = Path(settings.output_dir), []
    models = [
        (label, number, model)
        for label, given in settings.models.items()
        for number, model in enumerate([given] if isinstance(given, str) else given, 1)
    ]
    for label, number, model in models:
        folders.append(output / f"{label}-{number}")
        config = DiagnoseRunConfig(
            model=replace(settings.model, name_or_path=model),
            direction=settings.direction,
            label=label,
            output_dir=str(folders[-1]),
        )
        unfiltered = replace(config, direction=replace(config.direction, filter_prompts=False))
        try:
            report = diagnose(unfiltered if _done_unfiltered(folders[-1]) else config)
        except AllFiltered:
            report = diagnose(unfiltered)
        score = report["ablation_robustness"]
        print(f"{folders[-1].name}: ablation robustness {percent(score)} {score['reason']}".rstrip(), flush=True)
    return collect(folders, output)


def _done_unfiltered(folder: Path) -> bool:
    """Whether an earlier study has found this model to refuse nothing."""
    try:
        return json.loads((folder / DIRECTION_JSON).read_text(encoding="utf-8"))["filtered"] is False
    except (OSError, ValueError, LookupError, TypeError):
        return False
