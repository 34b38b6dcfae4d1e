"""derta_config.json: what a model was taught, in a file of the model itself."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from derta.config.model import ModelConfig
from derta.errors import InputError

DERTA_CONFIG_FILE = "derta_config.json"
BASE_WAS_DIRECTORY = "base_was_directory"  # of an adapter
STOP_KEY = "refusal_stop"


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


@dataclass(frozen=True, slots=True)
class StopRule:
    """A response stops where P(refusal), summed over `token_ids`, is above `threshold` at so many positions running."""

    token_ids: tuple[int, ...]
    threshold: float
    consecutive: int = 1


def stored_rule(model: ModelConfig) -> StopRule:
    """What launch/calibrate_stop.py has written. Raises InputError: there is none, or it is damaged."""
    found: Any = read_taught(model).get(STOP_KEY)
    if found is None:
        raise InputError(
            f"{model.name_or_path}: no threshold for stopping in its derta_config.json; run launch/calibrate_stop.py "
            f"model.name_or_path={model.name_or_path} benign=FILE harmful=FILE first"
        )
    try:
        ids, threshold, consecutive = found["token_ids"], found["threshold"], found["consecutive"]
        if not ids or not all(type(i) is int for i in [*ids, consecutive]) or consecutive < 1:
            raise ValueError
        return StopRule(tuple(ids), float(threshold), consecutive)
    except (LookupError, TypeError, ValueError):
        raise InputError(
            f"{model.name_or_path}: {STOP_KEY} in its derta_config.json is damaged: run launch/calibrate_stop.py again"
        ) from None
