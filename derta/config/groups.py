"""The groups of conf/, and the values that a command has without any word. They are read without Hydra, whose import
alone takes longer than all of --help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from derta.config.plain import plain
from derta.config.settings import Settings, as_tree, bare, hints, is_settings
from derta.config.shipped import CONF_DIR


def groups(schema: type[Settings]) -> dict[str, list[str]]:
    """Choices of every group of conf/ that a configuration has."""
    own = [name for name, annotation in hints(schema).items() if is_settings(bare(annotation))]
    folders = {folder.name: folder for folder in CONF_DIR.iterdir() if folder.is_dir()}
    wanted = [*own, "experiment"] if "objective" in own else own
    return {name: sorted(file.stem for file in folders[name].glob("*.yaml")) for name in wanted if name in folders}


def usual(group: str, model: str, peft: str = "none") -> str:
    """What a group is unless it is chosen: ${usual:...} in conf/. The miniature has settings of its own, every other
    model the paper's."""
    if model == "miniature":
        return "miniature"
    return {"trainer": "paper", "optim": "lora" if peft == "lora" else "full"}.get(group, "custom")


def run_folder(model: object) -> str:
    """Folder of the runs that start from a model: ${run_folder:...} in conf/; for a model in runs/NAME/ that one."""
    parts = Path(str(model)).parts or ("model",)
    return parts[1] if parts[0] == "runs" and len(parts) > 2 else parts[-1]


def shipped_values(name: str, schema: type[Settings]) -> dict[str, Any]:
    """What Hydra composes conf/NAME.yaml to, without overrides and unresolved; without such a file the defaults."""
    values = plain(as_tree(schema()))
    if (CONF_DIR / f"{name}.yaml").is_file():
        _merge(values, _read(f"{name}.yaml", values))
    return values


def _read(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """What a file holds itself; the choices that its defaults list names are put into `values`."""
    content = yaml.safe_load((CONF_DIR / name).read_text(encoding="utf-8")) or {}
    defaults = content.pop("defaults", ())
    chosen = dict(item for entry in defaults if isinstance(entry, Mapping) for item in entry.items())
    for entry in defaults:
        if isinstance(entry, Mapping):
            for group, choice in entry.items():
                if choice.startswith("${usual:"):
                    choice = usual(group, chosen["model"])
                if group in values:  # else Hydra's own
                    _merge(values[group], _read(f"{group}/{choice}.yaml", values[group]))
        elif (CONF_DIR / f"{entry}.yaml").is_file():
            _merge(values, _read(f"{entry}.yaml", values))
    return content


def _merge(values: dict[str, Any], content: Mapping[str, Any]) -> None:
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value
