"""derta_config.json: what a model was taught, in a file of the model itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from derta.config.model import ModelConfig
from derta.errors import InputError

DERTA_CONFIG_FILE = "derta_config.json"
BASE_WAS_DIRECTORY = "base_was_directory"  # of an adapter


def read_taught(model: ModelConfig) -> dict[str, Any]:
    """What the file says; nothing for a model that was not trained here.
    Raises InputError: it is there, and no JSON object."""
    path: Path | str | None = Path(model.name_or_path) / DERTA_CONFIG_FILE
    if not Path(model.name_or_path).is_dir():
        from transformers.utils.hub import cached_file

        path = cached_file(
            model.name_or_path,
            DERTA_CONFIG_FILE,
            revision=model.revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    if path is None or not Path(path).is_file():
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path} is no JSON object: restore it, or remove it")
    return found


def reset_id(model: ModelConfig) -> int | None:
    """The token with which the model takes back what stands before it; None for a model that was taught none.
    Raises InputError: as `read_taught`."""
    refusal = read_taught(model).get("refusal_token") or {}
    return refusal["continued_id"] if refusal.get("is_reset") else None
