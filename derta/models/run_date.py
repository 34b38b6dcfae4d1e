"""Which day the chat templates of a piece of work write: one for all of it, recorded, and the same when it goes on.

    model.template_date  >  what the work's own file records  >  what the model was taught with  >  today

Else a run that is continued tomorrow would train on other prompts, and two evaluations of one model would differ.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.models.load import load_tokenizer
from derta.models.taught import DERTA_CONFIG_FILE, read_taught
from derta.models.template_date import KEY, writes_date

logger = logging.getLogger(__name__)


def settle_dates(config: Any, file: Path | None = None, recorded: str | None = None) -> dict[str, str]:
    """Give every model that `config` names, and whose template writes a date, the day of this piece of work.

    Args:
        config: of a command; model.template_date is set where it was null.
        file: what the work's folder is recognised by: JSON with an `identity`, whose day is used again.
        recorded: that day, where the folder keeps it elsewhere.

    Returns:
        What belongs into the identity: the day, or nothing where no template writes one.
    """
    writing = []
    for model in _models(config):
        try:
            if writes_date(load_tokenizer(model)):
                writing.append(model)
        except InputError:  # said by whoever needs the model
            continue
    if not writing:
        return {}
    chosen = (*(model.template_date for model in writing), recorded, _recorded(file))
    day = next(filter(None, chain(chosen, map(_taught_with, writing))), date.today().isoformat())
    for model in writing:
        if model.template_date is None:
            logger.info("a chat template writes the date: %s, here and when this is continued (model.%s)", day, KEY)
            model.template_date = day
    return {KEY: ", ".join(dict.fromkeys(str(model.template_date) for model in writing))}


def taught_date(output_dir: str | Path) -> str | None:
    """The day that the checkpoints of a training run were taught with."""
    saved = sorted(Path(output_dir).glob(f"checkpoint-*/{DERTA_CONFIG_FILE}"))
    return _taught_with(ModelConfig(name_or_path=str(saved[0].parent))) if saved else None


def _recorded(file: Path | None) -> str | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))["identity"].get(KEY) if file else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # nothing there, or refused later
        return None


def _taught_with(model: ModelConfig) -> str | None:
    return read_taught(model).get(KEY)


def _models(config: Any) -> Iterator[ModelConfig]:
    """Every model that a configuration names."""
    if isinstance(config, ModelConfig):
        yield from [config] if config.name_or_path.strip() else []
    elif is_dataclass(config):
        for field in fields(config):
            yield from _models(getattr(config, field.name))
    elif isinstance(config, dict):
        for value in config.values():
            yield from _models(value)
