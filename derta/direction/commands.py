"""What launch/diagnose_direction.py does beside the diagnostic of one model: study, collect, select, convert."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from derta.config.command import Command
from derta.config.direction import (
    CollectRunConfig,
    ConvertRunConfig,
    DiagnoseRunConfig,
    SelectRunConfig,
    StudyRunConfig,
)
from derta.config.paths import quoted


def study(config: StudyRunConfig) -> str:
    """Diagnose every model, OUTPUT/LABEL-1, LABEL-2, ... (seeds of one arm), and return their table.

    What is done already is not done again. A model that refuses nothing, such as a base, is looked at without the
    filter of prompts, and its result says so.

    Raises:
        InputError: whatever the diagnostic raises.
    """
    from derta.direction.collect import collect
    from derta.direction.diagnose import diagnose
    from derta.direction.find import AllFiltered
    from derta.direction.report import percent

    folders = []
    for label, given in config.models.items():
        for number, model in enumerate([given] if isinstance(given, str) else given, 1):
            folders.append(Path(config.output_dir) / f"{label}-{number}")
            one = DiagnoseRunConfig(
                model=replace(config.model, name_or_path=model),
                direction=config.direction,
                label=label,
                output_dir=str(folders[-1]),
            )
            unfiltered = replace(one, direction=replace(one.direction, filter_prompts=False))
            try:
                report = diagnose(unfiltered if _done_unfiltered(folders[-1]) else one)
            except AllFiltered:
                report = diagnose(unfiltered)
            score = report["ablation_robustness"]
            print(f"{folders[-1].name}: ablation robustness {percent(score)} {score['reason']}".rstrip(), flush=True)
    return collect(folders, config.output_dir)


def _done_unfiltered(folder: Path) -> bool:
    """Whether an earlier study has found this model to refuse nothing."""
    try:
        return json.loads((folder / "direction.json").read_text(encoding="utf-8"))["filtered"] is False
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _collect(config: CollectRunConfig) -> None:
    from derta.direction.collect import collect

    print(collect(config.results, config.output, config.evaluations))


def _select(config: SelectRunConfig) -> None:
    from derta.direction.selection import read_table, select

    candidates = read_table(config.table)
    layers = config.layers or max(candidate.layer for candidate in candidates) + 1
    selection = select(candidates, layers, config)
    reasons = {} if selection.chosen else {"reason": "no valid direction found", "dropped": selection.dropped}
    print(json.dumps(selection.to_json() | reasons))


def _convert(config: ConvertRunConfig) -> None:
    from derta.residual.direction_files import convert_published

    direction = convert_published(config.file, config.metadata, config.output)
    place = {"position": direction.position, "layer": direction.layer, "hidden_size": len(direction.vector)}
    print(json.dumps({"output": config.output, **place}))


def _from_flags(words: list[str], free: str = "", lists: Sequence[str] = ()) -> list[str]:
    """Words of the earlier dialect, `--kl-max 0.2 --set KEY=VALUE ... RESULT ...`, as key=value; today's as they are.

    Args:
        free: the key of what stood there without one. lists: keys that took several values.
    """
    if not any(word.startswith("--") and word != "--help" for word in words):
        return words
    values: dict[str, list[str]] = {}
    key = free
    for word in words:
        if word.startswith("--"):
            key, _, value = word[2:].partition("=")
            key = key.replace("-", "_")
            values.setdefault(key, [])
            if not value:
                continue
            word = value
        values.setdefault(key, []).append(word)
        key = key if key in lists else free
    settings = values.pop("set", [])
    if "models" in values:
        models: dict[str, list[str]] = {}
        for word in values.pop("models"):
            label, _, folder = word.partition("=")
            models.setdefault(label, []).append(quoted(folder))
        settings.append("models={" + ",".join(f"{label}:[{','.join(all_)}]" for label, all_ in models.items()) + "}")
        values["output_dir"] = values.pop("output", [])
    for key, given in values.items():
        texts = [word if word.replace(".", "", 1).isdigit() else quoted(word) for word in given]
        settings.append(f"{key}=[{','.join(texts)}]" if key in (*lists, free) else f"{key}={''.join(texts)}")
    return settings


COMMANDS: dict[str, Command[Any]] = {
    "study": Command(
        "diagnose_direction study",
        StudyRunConfig,
        lambda config: print(study(config)),
        """Diagnose several models, one after another, and put them side by side. Seeds of one arm have one label.

    python launch/diagnose_direction.py study 'models={LABEL:DIR,LABEL:[DIR,DIR]}' output_dir=DIR [key=value]
""",
        conf="diagnose_direction",
        modern=lambda words: _from_flags(words, "models", ("set",)),
    ),
    "collect": Command(
        "diagnose_direction collect",
        CollectRunConfig,
        _collect,
        """Put finished diagnostics side by side: table and figure.

    python launch/diagnose_direction.py collect results=[DIR,DIR] output=DIR [evaluations=[DIR,DIR]]
""",
        modern=lambda words: _from_flags(words, "results", ("evaluations",)),
    ),
    "select": Command(
        "diagnose_direction select",
        SelectRunConfig,
        _select,
        """Choose a direction from a table of candidates; prints JSON.

    python launch/diagnose_direction.py select table=direction_evaluations.json [kl_max=0.1] [top_layers=0.2]
""",
        modern=_from_flags,
    ),
    "convert": Command(
        "diagnose_direction convert",
        ConvertRunConfig,
        _convert,
        """Convert a published direction.pt to safetensors.

    python launch/diagnose_direction.py convert file=direction.pt metadata=direction_metadata.json output=FILE
""",
        modern=_from_flags,
    ),
}
